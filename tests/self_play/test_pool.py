import random

from serl_trl.self_play.pool import InstructionPool


def test_draws_hold_up_to_two_kept_instructions():
    pool = InstructionPool([f"seed {n}" for n in range(10)], max_kept=3)
    rng = random.Random(0)
    assert all(example.startswith("seed") for example in pool.few_shot_examples(rng, 8, 2))
    pool.keep(["kept 0"])
    assert sorted(pool.few_shot_examples(rng, 8, 2))[0] == "kept 0"
    pool.keep([f"kept {n}" for n in range(1, 6)])
    examples = pool.few_shot_examples(rng, 8, 2)
    assert len(set(examples)) == 8
    assert sum(example.startswith("kept") for example in examples) == 2


def test_the_kept_pool_is_bounded_and_seeds_stay():
    pool = InstructionPool(["seed"], max_kept=3)
    pool.keep([f"kept {n}" for n in range(5)])
    assert list(pool.kept) == ["kept 2", "kept 3", "kept 4"]
    assert pool.metrics() == {"pool/seeds": 1.0, "pool/kept": 3.0}


def test_the_same_generator_draws_the_same():
    pool = InstructionPool([f"seed {n}" for n in range(20)], max_kept=3)
    draws = [pool.few_shot_examples(random.Random(seed), 8, 2) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
