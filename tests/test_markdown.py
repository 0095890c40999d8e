"""Names that would be Markdown or HTML, as a reader of the page sees them."""

import html

import pytest
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt
from trl.trainer.utils import generate_model_card

from serl_trl.evaluation.model_index import add_results
from serl_trl.hub.card import add_repositories, add_training
from serl_trl.hub.instructions import write_dataset
from serl_trl.hub.run_record import RunRecord
from serl_trl.markdown import code_block, escaped


NASTY = [
    "my_questions.jsonl",
    "[all](https://example.com/steal?q=",
    "x](javascript:alert(1)) ![y](z",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)> &lt;b&gt;",
    "`` ` code ``` ",
    "a | b || c",
    "one\n\n# two\n---\nthree: four",
    "---\nlicense: mit\n---\n",
    "{{ 7 * 7 }} {% raw %} {seeds} {0}",
    "**bold** _soft_ __init__ a_b_ ~~gone~~ $x$ \\",
    "```\n</code>\n~~~",
]


def rendered(markdown: str) -> str:
    """Return the HTML that a page shows, with tables and raw HTML."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


def shown(text: str) -> str:
    return html.escape(" ".join(text.split()))


@pytest.mark.parametrize("text", NASTY)
def test_a_text_is_shown_as_it_is(text):
    assert rendered(f"Seeds from {escaped(text)}.") == f"<p>Seeds from {shown(text)}.</p>\n"
    table = rendered(f"| a | b |\n| --- | --- |\n| {escaped(text)} | 5 |")
    assert f"<tbody>\n<tr>\n<td>{shown(text)}</td>\n<td>5</td>\n</tr>\n</tbody>" in table
    block = rendered(code_block(text, "bash") + "\n\nafter")
    assert block == f'<pre><code class="language-bash">{html.escape(text)}\n</code></pre>\n<p>after</p>\n'


@pytest.mark.parametrize("text", NASTY)
def test_cards_show_names_settings_and_commands_as_they_are(tmp_path, text):
    record = RunRecord(text, text, ["What is 2 + 2?"], {"run_name": text}, text)
    path = tmp_path / 'my "run" ```' / "README.md"
    generate_model_card(
        base_model=None, model_name="mine", hub_model_id=None, dataset_name=None, tags=["serl"], wandb_url=None,
        trackio_url=None, comet_url=None, trainer_name="SeRL",
    ).save(path)  # fmt: skip
    add_training(path, record, [])
    add_results(path, [{"dataset": text, "metric": "pass@1", "value": 0.5}])
    add_repositories(path, "me/mine", None)
    card = ModelCard.load(path)
    assert card.data.eval_results[0].dataset_name == text and card.data.license is None
    page = rendered(card.text)
    assert f"Base model: {shown(text)}. Seeds: 1 instructions from {shown(text)}, whose" in page
    assert f'<code class="language-bash">{html.escape(text)}\n</code>' in page
    assert "<h3>Curves</h3>" in page and "<script>" not in page and "<img" not in page
    assert "pipeline(&quot;text-generation&quot;, model=&quot;me/mine&quot;, device_map" in page

    write_dataset(record, [], tmp_path / "dataset", "me/mine")
    page = rendered(DatasetCard.load(tmp_path / "dataset" / "README.md").text)
    assert f"from 1 seeds ({shown(text)}), beginning as {shown(text)}. All" in page.replace("\n", " ")
    assert page.rstrip().endswith("</code></pre>") and "<script>" not in page and "<img" not in page
