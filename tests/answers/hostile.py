"""Completions that nobody foresaw: each is bad for a reader of formulas in a way of its own."""

import random


def boxed(*answers: str) -> list[str]:
    """Return a completion for each answer."""
    return [f"So it is \\boxed{{{answer}}}." for answer in answers]


SEEN = [  # that ended or stopped a training
    r"\int_0^1 \frac{\ln(1+x)}{1+x^2} dx",  # Putnam 2005
    r"10^{99999 \cdot 99990}",
    r"(10^{9990})^{9999}",
    r"(9990!)^{9999}",
    r"\lfloor (\sqrt2+\sqrt3)^{1980} \rfloor",
    r"\lfloor e^{2024} \rfloor",
]
POWERS = [
    *(f"{base}^{{{base}^{{{base}^{{{base}}}}}}}" for base in (2, 3, 7, 9, 99, "x", "\\pi", "0.5", "-3")),
    *(
        f"{base}^{{{exponent}}}"
        for base in (2, 3, "1.0000001", "(-7)", "(1+i)")
        for exponent in (10**6, 10**9, 10**30)
    ),
    *(
        f"({base}^{{99999}})^{{{exponent}}}"
        for base in (2, 10, "\\sqrt{2}", "e")
        for exponent in (9999, "9999 \\cdot 9999")
    ),
    *(f"{base}^{{9999 \\cdot 9999}} + 1" for base in (2, 10, "\\pi")),
    r"2^{-10^{20}}",
    r"\frac{10^{9999999}+1}{10^{9999999}-1}",
    r"\sqrt[1000003]{7^{1000003}+1}",
    r"2^{2^{10000}} \mod 7",
    r"\sqrt{2}^{\sqrt{2}^{\sqrt{2}^{\sqrt{2}^{\sqrt{2}}}}}",
    r"\ln(\ln(\ln(10^{10^{10^{10}}})))",
]
FACTORIALS = [
    *(f"{number}!" for number in (3000, 99999, 10**7, 10**30, "(10^{9})", "(9999!)", "x")),
    *(f"\\binom{{{n}}}{{{k}}}" for n, k in [(10**6, 5 * 10**5), (10**9, 10**8), ("x^{99}", "50"), ("-3", "10^9")]),
    r"\frac{1000000!}{999999!}",
    r"((((9!)!)!)!)!",
    r"2^{9999!}",
    r"\frac{(2^{30})!}{(2^{29})! (2^{29})!}",
    r"3!!!!!!!!!!!!!!!!",
]
CALCULUS = [
    *(
        f"\\sum_{{k=1}}^{{{end}}} {term}"
        for end in (10**9, "10^{30}", r"\infty")
        for term in ("k^k", r"\frac{1}{k^3+\sin k}", "k!")
    ),
    *(f"\\prod_{{k=1}}^{{{end}}} (1+k^{{-3}})" for end in (10**6, r"\infty")),
    *(
        f"\\int_0^{{{end}}} {term} dx"
        for end in ("1", r"\infty")
        for term in (r"\sin(x^x)", r"e^{-x^4}\ln(1+x^3)", r"\frac{x^7}{e^x+\sin x+2}")
    ),
    *(
        f"\\lim_{{x \\to {point}}} {term}"
        for point in ("0", r"\infty")
        for term in (r"(\sin x)^{\tan x^x}", r"\frac{x!}{x^x}", r"x^{x^{x^x}}")
    ),
    r"\int_0^1 \int_0^1 \int_0^1 \frac{1}{1-xyz} dx dy dz",
    r"\int \int \int \sin(xyz) e^{x^2y^2} dx dy dz",
    r"\frac{d^{99}}{dx^{99}} \tan(\sin(\cos x))",
    r"\sum_{i=1}^{999} \sum_{j=1}^{999} \sum_{k=1}^{999} \gcd(i,j,k)",
    r"\int_{-\infty}^{\infty} \frac{\cos x}{x^{10}+x^3+1} dx",
]
ROUNDINGS = [
    *(
        f"\\lfloor {number} \\rfloor"
        for number in (r"\pi^{9999}", r"(1+\sqrt5)^{5000}", r"\tan(10^{50})", "10^{10^{10}}")
    ),
    *(f"\\lceil {number} \\rceil" for number in (r"e^{e^{e^{e}}}", r"\frac{10^{5000}}{3}")),
    r"\sin(10^{10^{10}})",
    r"\arctan(\tan(99999999999999999999999))",
    r"\gcd(2^{99999}-1, 3^{99999}-1)",
    r"10^{5000} \mod (7^{3000}+2)",
]
SYMBOLS = [
    *(f"(x+y+z+w)^{{{exponent}}}" for exponent in (40, 200, 9999)),
    *(f"\\sqrt{{{'x+' * depth}1}}" for depth in (50, 500)),
    "+".join(f"\\frac{{x^{{{n}}}}}{{1+y^{{{n}}}}}" for n in range(60)),
    "".join(f"(x-{n})" for n in range(200)),
    r"\frac{(x^{200}-1)(y^{200}-1)}{(x-1)(y-1)}",
    "+".join(f"\\sqrt{{{n}}}" for n in range(2, 60)),
    "".join(f"\\sqrt{{{n}+" for n in range(1, 40)) + "1" + "}" * 39,
    "\\sin(" * 60 + "x" + ")" * 60,
    "x^{" * 40 + "2" + "}" * 40,
    "|" * 41 + "x" + "|" * 41,
    r"\sqrt[3]{2+\sqrt{5}}+\sqrt[3]{2-\sqrt{5}}+" * 10 + "1",
    r"\cos(\frac{\pi}{65537})\cos(\frac{2\pi}{65537})\cos(\frac{4\pi}{65537})",
    r"x^{100}+y^{100}=z^{100}",
    r"x^5-x-1=0",
    r"\sin(x)^x+\cos(x)^x=1",
    r"x<y<z<w<x^{99}",
]
COLLECTIONS = [
    r"\{" + ",".join(str(n) for n in range(2000)) + r"\}",
    "(" + ",".join(f"\\sqrt{{{n}}}" for n in range(100)) + ")",
    r"\{x : x^{99} < 2^{x}\}",
    r"[0,10^{9999999}) \cup (10^{10^{10}}, \infty)",
    " \\cup ".join(f"({n},{n + 1})" for n in range(150)),
    " \\cap ".join(f"(-{n},x_{n})" for n in range(1, 60)),
    *(
        f"\\begin{{pmatrix}} {row} \\end{{pmatrix}}"
        for row in (" & ".join("123456789"), " \\\\ ".join("1 & x" for _ in range(300)))
    ),
    "\\begin{pmatrix} "
    + " \\\\ ".join(" & ".join(f"x^{i * j}" for j in range(9)) for i in range(9))
    + " \\end{pmatrix}^{-1}",
    r"\begin{pmatrix} 1 & 1 \\ 1 & 0 \end{pmatrix}^{10^{9}}",
    r"\begin{vmatrix} "
    + r" \\ ".join(" & ".join(f"x_{{{i}{j}}}" for j in range(8)) for i in range(8))
    + r" \end{vmatrix}",
    r"\emptyset",
    r"\mathbb{R} \setminus \{0, \pm 1, \pm 2, \ldots\}",
    r"(" * 200 + "1" + ")" * 200,
]
DIGITS = [
    "9" * 5000,
    "1." + "3" * 20000,
    "0." + "0" * 9000 + "1",
    "7" * 200_000,
    "1e999999999",
    "1" + ",000" * 3000,
    "-" * 3001 + "5",
    "+".join("1" * 2000),
    "1/" * 300 + "2",
    "\\frac{1}{1+" * 80 + "1" + "}" * 80,
    "50\\%" * 300,
    "12_{" * 30 + "3" + "}" * 30,
]
BROKEN = [
    *(
        "\\frac{1}{",
        "\\sqrt[",
        "}{",
        "\\left(",
        "\\begin{pmatrix} 1 & 2",
        "\\",
        "^",
        "_",
        "^{^{^{",
        "\\\\\\",
        "&&&",
        "$$$",
        "%",
        "#",
    ),
    *(
        "\\text{" * 300,
        "\\left(" * 300,
        "{" * 3000,
        "}" * 3000,
        "\\frac" * 500,
        "\\sqrt" * 500,
        "^" * 500,
        "\\over" * 50,
    ),
    "\\undefined{5} \\unknown",
    "\\def\\a{\\a\\a}\\a",
    "\\input{/etc/passwd}",
    "__import__('os').system('sleep 100')",
    "lambda: (yield)",
    "5 \\text{ because } " * 300,
]
TEXTS = [  # whole completions
    "",
    " ",
    "\n" * 5000,
    " " * 8000,
    "\t" * 8000 + "5",
    "The answer is" + " " * 8000 + "x",
    "\\boxed{" + " " * 8000 + "x}",
    "\\boxed{" * 3000,
    "\\boxed{5}" * 3000,
    "\\boxed{" * 300 + "5" + "}" * 300,
    "\\boxed{}",
    "$" * 10_001,
    "$5$ and " * 3000,
    "final answer is " * 3000 + "$5$",
    "\\[" * 3000,
    "\\(" * 3000 + "5" + "\\)" * 3000,
    "answer: " * 3000,
    "\0" * 1000,
    "\\boxed{\0}",
    "\\boxed{5\x00\x01\x02\x7f\x9b31m}",
    "\x1b[2J\\boxed{5}",
    "\ud800 \\boxed{\udfff}",  # half of a pair, which UTF-8 can't hold
    "\\boxed{٣٤٥}",
    "\\boxed{½ + Ⅷ + ² + ∞ + √2}",
    "\\boxed{" + "\u0301" * 5000 + "a}",
    "\\boxed{\u202e5\u202c}",
    "\\boxed{\U0001f600}" * 500,
    "五" * 20_000,
    "word " * 200_000,  # a megabyte
    "\\boxed{" + "x+" * 100_000 + "1}",
    "1 " * 300_000,
    "$" + "1+" * 20_000 + "1$",
    "a" * 2_000_000,
    "(" * 100_000,
    "\r\n\v\f\x85\u2028" * 2000 + "5",
]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Return boxes of random pieces of LaTeX, whole and broken."""
    pieces = r"\frac{ }{ \sqrt{ ^{ _{ } ( ) ! + - \cdot , = < \sum_{k=1}^{ \int_0^ \lim \binom{ x y 9 99 0.1 \pi e \infty \% \mod \log \cup"
    draw = random.Random(seed)
    return [" ".join(draw.choices(pieces.split(), k=draw.randint(3, 40))) for _ in range(count)]


CORPUS = TEXTS + boxed(
    *SEEN, *POWERS, *FACTORIALS, *CALCULUS, *ROUNDINGS, *SYMBOLS, *COLLECTIONS, *DIGITS, *BROKEN, *random_texts(40)
)
