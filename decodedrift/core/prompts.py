"""Prompt files and the bundled sets -> Prompts, with every refusal named by file and line."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from decodedrift.core.formats import csv_rows, existing, read_json, read_utf8
from decodedrift.core.records import InputError, Prompt, Text, nearest, shortened
from decodedrift.core.turns import IDS, MESSAGES, TEXT, checked_ids, checked_messages, given_as, parquet_rows

BALANCED = 16
VOCABULARY = "tokenizer.json"
TEXTS = STORY, PROSE = "bundled story", "bundled prose"
SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
COLUMNS = ("prompt", "id", "tags", "answer")  # only the first must be there
KEYS = (*COLUMNS, MESSAGES, IDS)


def bundled_folder() -> Path:
    """The bundled sets: inside the package when installed, at the top of the checkout when editable."""
    inside = Path(__file__).parents[1] / "data" / "prompts"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "prompts"


def bundled_sets() -> dict[str, Path]:
    """Set name -> file."""
    return {p.stem: p for p in sorted(bundled_folder().glob("*.jsonl"))}


def place_of(model: Any) -> str:
    """A model's name or folder; of one in memory where it was loaded from, or nothing."""
    return model if isinstance(model, str) else str(getattr(getattr(model, "config", None), "_name_or_path", ""))


def tells_stories(model: str) -> bool:
    """Whether a model is the bundled story model, a copy or a version of it: by its name or by its vocabulary.

    So the same weights are asked the same wherever they lie. An unreadable folder is refused later, by name.
    """
    if model == "demo":
        return True
    path, bundled = Path(model).expanduser() / VOCABULARY, Path(__file__).parents[1] / "data" / "demo" / VOCABULARY
    try:
        if path.stat().st_size > 2 * bundled.stat().st_size:
            return False
        ours, its = (json.loads(p.read_bytes())["model"]["vocab"] for p in (bundled, path))
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return bool(ours == its)


def default_set(model: str) -> str:
    """Story openings for the bundled story model, the general set for every other."""
    return "stories" if tells_stories(model) else "default"


def load_prompts(source: str | Path) -> tuple[Prompt, ...]:
    """Prompts of a bundled set (by name) or a file: .txt (one a line), .jsonl or .csv (prompt, id, tags, answer).

    .json is a list of what a line of .jsonl holds, .parquet a row of it; both may have `messages` or
    `prompt_token_ids` in place of `prompt`.

    Raises:
        InputError: missing, empty, not UTF-8, malformed (file:line), or with an id given twice.
    """
    sets = bundled_sets()
    if str(source) in sets:
        path = sets[str(source)]
    else:
        path = existing(source, "--prompts", f", and no bundled set; {nearest(str(source), tuple(sets))}")
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"--prompts {source}: unknown kind {path.suffix!r}; use {', '.join(SUFFIXES)}")
    reader = {".txt": _from_txt, ".jsonl": _from_jsonl, ".json": _from_json, ".csv": _from_csv}.get(path.suffix.lower())
    prompts = _identified(_from_parquet(path) if reader is None else reader(path, read_utf8(path, "--prompts")))
    if not prompts:
        raise InputError(f"--prompts {path}: the file holds no prompts")
    return prompts


def given_prompts(items: Iterable[str | Prompt | Mapping[str, Any]]) -> tuple[Prompt, ...]:
    """Prompts typed on the command line, listed in a plan or passed from a notebook; texts get an id of their own.

    Raises:
        InputError: something that is no prompt, or an id given twice.
    """
    return _identified(
        _from_record(i, f"prompts[{n}]") if isinstance(i, Prompt) else _from_entry(i, f"prompts[{n}]")
        for n, i in enumerate(items)
    )


def balanced(prompts: Sequence[Prompt], count: int) -> tuple[Prompt, ...]:
    """`count` prompts, taken in turn from each first tag, in file order within a tag."""
    by_tag: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_tag.setdefault(prompt.tags[0] if prompt.tags else "", []).append(prompt)
    pick: list[Prompt] = []
    turn = 0
    while len(pick) < min(count, len(prompts)):
        pick.extend(group[turn] for group in by_tag.values() if turn < len(group))
        turn += 1
    ids = {p.id for p in pick[:count]}
    return tuple(p for p in prompts if p.id in ids)


def picked(prompts: tuple[Prompt, ...], ids: Sequence[str]) -> tuple[Prompt, ...]:
    """The prompts of the given ids; a comma separates two ids unless an id holds it. InputError: there is none."""
    by_id = {p.id: p for p in prompts}
    names = [i.strip() for text in ids for i in ([text] if text in by_id else text.split(","))]
    for name in names:
        if name not in by_id:
            close = difflib.get_close_matches(name, by_id, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"ids look like {next(iter(by_id), '')!r}"
            raise InputError(f"--prompt-id {name or repr('')}: no such prompt among {len(by_id)}; {hint}")
    return tuple(by_id[i] for i in dict.fromkeys(names))


def load_texts(sources: Iterable[str | Path]) -> tuple[Text, ...]:
    """Real texts for perplexity; each is named after its file.

    Raises:
        InputError: missing, empty or not UTF-8.
    """
    texts = []
    for source in sources:
        path = existing(source, "--text")
        content = read_utf8(path, "--text")
        if not content.strip():
            raise InputError(f"--text {source}: the file is empty")
        texts.append(Text(path.name, content))
    return tuple(texts)


def bundled_text(name: str) -> Text:
    """One of TEXTS, which are there for perplexity where no other is given."""
    path = Path(__file__).parents[1] / "data" / "texts" / f"{name.split()[-1]}.txt"
    return Text(name, read_utf8(path, "--text"))


@dataclass(frozen=True)
class Raw:
    """A prompt as it was given. where: `file:line`, empty for one typed or passed.

    messages, prompt_token_ids: see `Prompt`.
    """

    id: str | None
    text: str
    tags: tuple[str, ...] = ()
    where: str = ""
    answer: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None

    @property
    def content(self) -> str:
        """What an id is made of."""
        instead = self.messages or self.prompt_token_ids
        return json.dumps(instead, sort_keys=True) if instead else self.text


def _from_txt(path: Path, content: str) -> list[Raw]:
    # only \n and \r\n end a line: str.splitlines would cut at U+2028 too
    lines = (line.removesuffix("\r") for line in _newlines(path, content).split("\n"))
    return [Raw(None, line) for line in lines if line.strip()]


def _from_jsonl(path: Path, content: str) -> list[Raw]:
    entries = []
    for number, line in enumerate(_newlines(path, content).split("\n"), 1):
        if line.strip():
            entries.append(_from_entry(read_json(line, str(path), number), f"{path}:{number}"))
    return entries


def _from_json(path: Path, content: str) -> list[Raw]:
    entries = read_json(content, str(path))
    if not isinstance(entries, list):
        raise InputError(f"--prompts {path}:1: must hold a list of prompts; a prompt a line is .jsonl")
    return [_from_entry(entry, f"{path} entry {number}") for number, entry in enumerate(entries, 1)]


def _from_parquet(path: Path) -> list[Raw]:
    return [_from_entry(row, f"{path} row {number}") for number, row in enumerate(parquet_rows(path, KEYS), 1)]


def _from_record(prompt: Prompt, where: str) -> Raw:
    given = {MESSAGES: prompt.messages, IDS: prompt.prompt_token_ids}
    name = given_as(given, where)
    return replace(Raw(prompt.id, prompt.text, prompt.tags, answer=prompt.answer), **_instead(given, name, where))


def _instead(entry: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """What a prompt is instead of a text, of those that it can be."""
    check = {MESSAGES: checked_messages, IDS: checked_ids}.get(name)
    return {} if check is None else {name: check(entry[name], where)}


def _newlines(path: Path, content: str) -> str:
    """The content, whose lines end as they do today: a file with CR alone would be a single prompt.

    Raises:
        InputError: there are CRs, and not one LF.
    """
    if "\r" in content and "\n" not in content:
        raise InputError(f"--prompts {path}:1: its lines end with CR alone; save it with LF (or CR LF) at line ends")
    return content


def _from_entry(entry: Any, where: str) -> Raw:
    """A prompt written as JSON or YAML: a text, or {prompt, id, tags, answer} (`text` in a plan.json).

    `messages` or `prompt_token_ids` may stand in the place of `prompt`.
    """
    if isinstance(entry, str):
        return Raw(None, entry, (), where)
    for key in entry if isinstance(entry, Mapping) else ():
        if key not in KEYS and (known := str(key).strip().lower()) in KEYS:
            raise InputError(f"{where}: the key {key!r} would not be read; write `{known}`")
    name = given_as(entry, where) if isinstance(entry, Mapping) else TEXT
    text = entry.get("prompt", entry.get("text")) if isinstance(entry, Mapping) else None
    text = text or "" if name != TEXT else text
    if not isinstance(text, str):
        bare = isinstance(entry, Mapping) and "text" in entry and text is None
        mend = "; this plan was kept without texts (--no-text), so give --prompts" if bare else ""
        raise InputError(f'{where}: needs a text under "prompt"{mend}')
    if name == TEXT and "prompt" in entry and "text" in entry:
        raise InputError(f"{where}: a text under `prompt` and one under `text`; keep one of them")
    raw = Raw(
        _id(entry.get("id"), where), text, _tags(entry.get("tags"), where), where, _answer(entry.get("answer"), where)
    )
    return replace(raw, **_instead(entry, name, where))


def _from_csv(path: Path, content: str) -> list[Raw]:
    entries = []
    for line, cells in csv_rows(content, path, COLUMNS):
        where = f"{path}:{line}"
        tags = _tags(cells.get("tags"), where)
        answer = cells.get("answer", "").strip() or None
        entries.append(Raw(_id(cells.get("id", "").strip() or None, where), cells["prompt"], tags, where, answer))
    return entries


def _id(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, int)) or isinstance(value, bool) or not str(value).strip():
        raise InputError(f"{where}: an id must be a text, not {value!r}")
    return str(value)


def _tags(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise InputError(f"{where}: tags must be a list of texts, not {value!r}")


def _answer(value: Any, where: str) -> str | None:
    """An answer as a text; a number is written as JSON and YAML write it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise InputError(f"{where}: an answer is a text or a number, not {shortened(value)}")


def _identified(raw: Iterable[Raw]) -> tuple[Prompt, ...]:
    """Fills in ids: `p` and the first 8 hex digits of the text's SHA-256, `-2` and so on for a repeated text."""
    names: set[str] = set()
    prompts = []
    for prompt in raw:
        if prompt.id is not None:
            name = prompt.id
            if name in names:
                at = f"{prompt.where}: " if prompt.where else ""
                raise InputError(f"{at}the prompt id {name!r} is given twice; ids key the noise, so each needs its own")
        else:
            base = "p" + hashlib.sha256(prompt.content.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            name, count = base, 1
            while name in names:
                count += 1
                name = f"{base}-{count}"
        names.add(name)
        made = Prompt(name, prompt.text, prompt.tags, prompt.answer)
        prompts.append(replace(made, messages=prompt.messages, prompt_token_ids=prompt.prompt_token_ids))
    return tuple(prompts)
