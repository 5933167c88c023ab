"""What deployment would see of a folder: four copies of one model whose weights are equal, and a negative control."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from running import LEAN, saved_as

import decodedrift as dd
from decodedrift.core.records import InputError
from decodedrift.experiments.compare.screenful import screenful
from decodedrift.models.sources.checkpoints import DEMO
from decodedrift.models.text.deployment import CHANGING, SAMPLING

ASKED: dict[str, Any] = {"limit": 4, "max_new_tokens": 2, "noise_floor": False, "default_text": False}


def edited(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text("utf-8")) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def with_bos(folder: Path) -> None:
    """As most tokenizers have it; the demo model's has none."""
    bos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    ids = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    added = {"type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text, second], "special_tokens": ids}
    edited(folder / "tokenizer.json", lambda c: c.update(post_processor=added))


def without_bos(folder: Path) -> None:
    edited(folder / "tokenizer.json", lambda c: c.update(post_processor=None))


def half_of_the_merges(folder: Path) -> None:
    edited(folder / "tokenizer.json", lambda c: c["model"].update(merges=c["model"]["merges"][::2]))


def one_more_stop(folder: Path) -> None:
    edited(folder / "generation_config.json", lambda c: c.update(eos_token_id=[0, 300]))


def penalty(folder: Path) -> None:
    edited(folder / "generation_config.json", lambda c: c.update(repetition_penalty=1.3, temperature=0.6))


COPIES = {"nobos": without_bos, "half": half_of_the_merges, "stop": one_more_stop, "rep": penalty}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """name -> a copy of the demo model with one thing changed; `same`: with nothing."""
    folders = {}
    for name, change in ({"same": lambda folder: None} | COPIES).items():
        folders[name] = tmp_path_factory.mktemp("copies") / name
        shutil.copytree(DEMO, folders[name])
        with_bos(folders[name])
        change(folders[name])
    return folders


@pytest.fixture(scope="module")
def study(copies: dict[str, Path]) -> dd.Study:
    names = [f"{n}={p}" for n, p in copies.items()]
    return dd.compare(str(copies["same"]), candidates=names, prompts="stories", strategies=["greedy"], **ASKED)


def test_every_difference_is_found_before_weights_load(study: dd.Study) -> None:
    facts = study.environment["deployment"]
    assert facts["fp32"] == facts["same"] == {}  # the negative control: a copy with nothing changed
    assert facts["nobos"] == {
        "prompts": {"differ": 4, "of": 4, "first": study.plan["prompts"][0]["id"], "how": "no BOS"}
    }
    assert list(facts["half"]) == ["prompts"] and facts["half"]["prompts"]["differ"] == 4
    assert re.fullmatch(r"\d+ ids instead of \d+", facts["half"]["prompts"]["how"])
    assert facts["stop"] == {"stop_ids": {"reference": [0], "candidate": [0, 300]}}
    assert facts["rep"] == {"settings": {"repetition_penalty": [None, 1.3]}}  # nothing is sampled: no temperature
    assert (study.divergences["diverged"] == 0).all()  # the weights are the same, and so are their texts


def test_it_is_said_first_everywhere(study: dd.Study, tmp_path: Path) -> None:
    first = study.verdict[0]
    assert "same" not in first.split("(--as-deployed), ")[1]
    for part in (
        "nobos encodes 4 of 4 prompts to other ids (", "no BOS);", "half encodes 4 of 4",
        "stop stops at 0 and 300 (the reference at 0);", "rep applies repetition_penalty=1.3.",
    ):  # fmt: skip
        assert part in first
    assert screenful(study).startswith("- Compared under the reference's tokenizer")
    study.save(tmp_path / "run")
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text("utf-8"))
    assert next(iter(verdict)) == "deployment" and verdict["deployment"] == [first]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "encodes 4 of 4 prompts to other ids" in page


def test_settings_of_the_model_itself_and_of_sampling(copies: dict[str, Path]) -> None:
    asked = ASKED | {"limit": 1, "strategies": ["top-k:k=5"]}
    study = dd.compare(str(copies["rep"]), candidates=[f"same={copies['same']}"], **asked)
    assert study.environment["deployment"] == {
        "fp32": {"settings": {"repetition_penalty": 1.3, "temperature": 0.6}},
        "same": {"settings": {"repetition_penalty": [1.3, None], "temperature": [0.6, None]}},
    }
    assert "fp32 applies repetition_penalty=1.3 and temperature=0.6; same does not apply" in study.verdict[0]


def test_a_model_that_is_deployed_as_it_is_compared_has_no_such_sentence(copies: dict[str, Path]) -> None:
    study = dd.compare(
        str(copies["same"]), candidates=[f"same={copies['same']}"], strategies=["greedy"], **ASKED | {"limit": 1}
    )
    assert not any("deployed" in sentence for sentence in study.verdict)


def test_every_setting_of_which_transformers_makes_a_processor_is_known() -> None:
    from transformers import GenerationMixin

    names = set(re.findall(r"generation_config\.([a-z]\w*)", inspect.getsource(GenerationMixin._get_logits_processor)))
    assert {"repetition_penalty", "temperature"} <= names
    assert names - {*CHANGING, *SAMPLING} <= {
        "max_length",
        "num_return_sequences",
        "use_cache",
        "diversity_penalty",
        "num_beam_groups",
    }


def test_a_vocabulary_that_only_grew_is_compared_over_the_shared_ids(copies: dict[str, Path], tmp_path: Path) -> None:
    """One more token and one more row of the head: the logits of the others are the same, and so is every text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model = AutoModelForCausalLM.from_pretrained(DEMO)
    model.resize_token_embeddings(size + 1, mean_resizing=False)
    for saved in (model, tokenizer):
        saved.save_pretrained(tmp_path / "grown")
    asked = ASKED | {"strategies": ["greedy"], "limit": 2, "max_new_tokens": 4}
    for reference, candidate, more in ((copies["same"], tmp_path / "grown", 1), (tmp_path / "grown", DEMO, -1)):
        study = dd.compare(str(reference), candidates=[f"other={candidate}"], prompts="stories", **asked)
        counts = study.environment["deployment"]["other"]["vocabulary"]
        assert counts["candidate"] - counts["reference"] == more
        facts = study.environment["variants"]["other"]
        assert facts["cut_ids"] == 1 and max(facts["cut_reference_mass"], facts["cut_candidate_mass"]) > 0
        assert any("differ by 1 id, which is cut" in s for s in study.verdict)
        rows = study.positions[study.positions["role"] == "candidate"]
        assert len(rows) and rows["kl"].max() < 1e-6 and (study.divergences["diverged"] == 0).all()


def test_another_map_of_the_same_tokens_stays_refused(copies: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "other")

    def swapped(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        a, b = list(vocab)[-2:]
        vocab[a], vocab[b] = vocab[b], vocab[a]

    edited(tmp_path / "other" / "tokenizer.json", swapped)
    with pytest.raises(InputError, match=r"another vocabulary than the reference .2 tokens differ"):
        dd.compare("demo", candidates=[f"other={tmp_path / 'other'}"], strategies=["greedy"], **ASKED)


# ---- --as-deployed


@pytest.fixture(scope="module")
def deployed(copies: dict[str, Path]) -> dd.Study:
    names = [f"{n}={p}" for n, p in copies.items()]
    asked = ASKED | {"limit": 2, "max_new_tokens": 24, "prompts": "stories", "strategies": ["greedy"]}
    return dd.compare(str(copies["same"]), candidates=names, as_deployed=True, **asked)


def by_generate(folder: Path, text: str) -> list[int]:
    """What transformers' own generate writes greedily, with the folder's own tokenizer and settings."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = (kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModelForCausalLM))
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
    return list(out[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("name", ["same", *COPIES])
def test_each_side_writes_what_its_own_generate_writes(deployed: dd.Study, copies: dict[str, Path], name: str) -> None:
    traces = deployed.traces[(deployed.traces["variant"] == name) & (deployed.traces["role"] == "candidate")]
    assert len(traces) == 2
    for row in traces.itertuples():
        assert list(map(int, row.token_ids.split())) == by_generate(copies[name], row.prompt)


def test_figures_along_a_text_are_where_both_read_the_same_ids(deployed: dd.Study) -> None:
    positions = deployed.positions[deployed.positions["role"] == "candidate"]
    words = deployed.answer.set_index("candidate")["wording"]
    assert words["same"] == "same execution" and not {"same execution"} & {*words.drop("same")}
    assert set(positions["candidate"]) == {"same", "stop"}
    rows = deployed.divergences[deployed.divergences["role"] == "candidate"].set_index("candidate")
    assert (rows.loc["same", "diverged"] == 0).all() and rows.loc["rep", "diverged"].sum() > 0
    assert rows.loc["nobos", "diverged"].sum() > 0 and rows.loc["half", "diverged"].sum() > 0


def test_settings_of_the_model_itself_run_on_both_sides(copies: dict[str, Path]) -> None:
    """Controls included; greedy and coupled sampling, with a text whose perplexity is one of weights."""
    asked = ASKED | {"strategies": ["greedy", "top-k:k=5"], "noise_floor": True, "default_text": True, "limit": 3}
    asked |= {"max_new_tokens": 24, "prompts": "stories"}
    study = dd.compare(str(copies["rep"]), candidates=["bf16"], as_deployed=True, **asked)
    assert not len(study.failures)
    rows = study.traces[(study.traces["role"] == "reference") & (study.traces["strategy"] == "greedy")]
    for row in rows.itertuples():
        assert list(map(int, row.token_ids.split())) == by_generate(copies["rep"], row.prompt)
    repeated = study.divergences[study.divergences["role"] == "self"]
    assert len(repeated) == 6 and (repeated["diverged"] == 0).all()
    assert set(study.positions["strategy"]) == {"text"} and len(study.perplexity) == 2
    assert study.traces["perplexity_judge"].isna().all()
    assert "fp32 applies repetition_penalty=1.3 and temperature=0.6." in study.verdict[0]
    assert "(bf16) there are first divergences, and no distances." in study.verdict[1]


def test_prompts_of_other_ids_are_counted_apart(deployed: dd.Study) -> None:
    said = deployed.verdict
    rows = deployed.divergences[deployed.divergences["role"] == "candidate"]
    parted = rows.groupby("candidate")["diverged"].sum().astype(int)
    assert said[0].startswith("Each side as deployed: nobos encodes 2 of 2")
    assert f"of nobos {parted['nobos']} of 2 where they do; of half {parted['half']} of 2 where they do." in said[1]
    assert said[2].startswith(
        "Where ids of a prompt differ or settings act on the logits (nobos, half and rep) there are"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"strategies": ["beam"]}, "rep has repetition_penalty in its generation settings, which beam search"),
        ({"decompose": True}, "decompose=True compares what both sides read alike"),
        ({"mode": "screen"}, "as_deployed=True needs generated texts"),
    ],
)
def test_what_is_not_run_as_deployed_is_refused(copies: dict[str, Path], asked: dict[str, Any], said: str) -> None:
    settings = {"strategies": ["greedy"], "max_new_tokens": 2, "limit": 1} | asked
    with pytest.raises(InputError, match=said):
        dd.compare(str(copies["same"]), candidates=[f"rep={copies['rep']}"], as_deployed=True, **settings)


def test_as_deployed_a_plain_folder_runs_in_the_type_that_it_is_stored_in(tmp_path: Path) -> None:
    plain = saved_as(tiny_model("llama"), tmp_path / "plain")
    narrow = saved_as(tiny_model("llama").to(torch.bfloat16), tmp_path / "narrow")
    for deployed, types in ((True, ["bf16", "fp16"]), (False, ["fp32", "fp16"])):
        study = dd.compare(
            plain, candidates=[f"own={narrow}", f"asked={narrow}:precision=fp16"], prompts=["w1 w2"],
            strategies=["greedy"], max_new_tokens=2, as_deployed=deployed, **LEAN,
        )  # fmt: skip
        assert [study.environment["variants"][name]["compute"] for name in ("own", "asked")] == types
        assert study.environment["variants"]["fp32"]["compute"] == "fp32"


def test_a_side_that_had_ended_is_said_to_have_stopped(deployed: dd.Study, copies: dict[str, Path]) -> None:
    """A stop id of the candidate's own ends its text where the reference writes on: no token was taken there."""
    row = deployed.traces[deployed.traces["role"] == "reference"].iloc[0]
    stop = int(row["token_ids"].split()[10])
    folder = shutil.copytree(copies["same"], copies["same"].with_name("early"))
    edited(folder / "generation_config.json", lambda c: c.update(eos_token_id=[0, stop]))
    asked = ASKED | {"limit": 1, "max_new_tokens": 24, "prompts": "stories", "strategies": ["greedy"]}
    study = dd.compare(str(copies["same"]), candidates=[f"early={folder}"], as_deployed=True, **asked)
    (split,) = study.divergences[study.divergences["role"] == "candidate"].itertuples()
    assert split.cause == "stopped" and split.candidate_token != split.candidate_token
    assert ", early stopped:" in screenful(study)
    assert '"nan"' not in screenful(study)
