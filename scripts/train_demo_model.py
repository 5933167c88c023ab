"""Train the small GPT-2 that ships with decodedrift as ``--model demo``.

Takes a folder of ``.txt`` files in which documents are separated by
``<|endoftext|>``, and writes a model folder that ``AutoTokenizer`` and
``AutoModelForCausalLM`` load offline, with a model card::

    python scripts/train_demo_model.py --text FOLDER --out decodedrift/data/demo

The last 5 % (by bytes) of the main file, by default the largest, is held out.
Neither the tokenizer nor the model sees a byte of it, nor the document that
straddles the cut. All files are mixed, in proportion to their size, for the
first part of the run; the rest of it reads the main file alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from demo_corpus import END_ID, bits_per_byte, encode, read_corpus, train_tokenizer
from torch import Tensor, nn
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

CONTEXT, STRIDE = 256, 128  # windows of the held-out figure
CARD_TEMPLATE = Path(__file__).with_name("demo_model_card.md")


class SequenceDropout(nn.Module):
    """Dropout whose mask is drawn once per sequence and shared by its positions.

    Far fewer random numbers than one per element: on a CPU those cost as much
    as a good part of the step.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Scale or zero whole channels of ``x`` (batch, position, channel)."""
        if not self.training:
            return x
        keep = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= self.p
        return x * (keep.to(x.dtype) / (1 - self.p))


def build_model(args: argparse.Namespace, vocab_size: int) -> GPT2LMHeadModel:
    """A fresh GPT-2 with tied embeddings and per-sequence dropout."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=args.window,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.heads,
        resid_pdrop=args.dropout,
        embd_pdrop=args.dropout,
        attn_pdrop=0.0,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
        tie_word_embeddings=True,
    )
    model = GPT2LMHeadModel(config)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout) and child.p:
                setattr(module, name, SequenceDropout(child.p))
    return model


def make_optimizers(model: nn.Module, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and ".h." in n]
    tables = [p for n, p in named if p.ndim == 2 and ".h." not in n]
    vectors = [p for _, p in named if p.ndim < 2]
    groups = [
        {"params": tables, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(
            matrices,
            lr=args.lr,
            weight_decay=args.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98)),
    ]


def train(
    model: GPT2LMHeadModel,
    main: Tensor,
    extra: list[Tensor],
    args: argparse.Namespace,
    checkpoint: Callable[[], str],
) -> None:
    """Train on windows at random offsets; linear warm-up, linear decay to zero.

    ``checkpoint`` is called at every report, and what it returns is printed.
    """
    device = model.device
    mixed, main = torch.cat([main, *extra]).to(device), main.to(device)
    if len(main) <= args.window:
        raise SystemExit("error: the training text is shorter than one window")
    optimizers = make_optimizers(model, args)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            hidden = model.transformer(input_ids=x, use_cache=False)[0]
            logits = model.lm_head(hidden)
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), y.flatten())

    step_loss = torch.compile(loss_of) if args.compile else loss_of
    span = torch.arange(args.window + 1, device=device)
    warmup = max(1, min(100, args.steps // 10))
    began, running = time.monotonic(), 0.0
    model.train()
    for step in range(args.steps):
        scale = min((step + 1) / warmup, (args.steps - step) / max(1, args.steps - warmup))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * scale
        stream = mixed if step < args.mixed * args.steps else main
        at = torch.randint(len(stream) - args.window, (args.batch, 1), device=device)
        batch = stream[at + span]
        loss = step_loss(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        running += loss.item()
        if (step + 1) % args.log_every == 0 or step + 1 == args.steps:
            count = (step % args.log_every) + 1
            print(
                f"step {step + 1}/{args.steps} loss {running / count:.4f} "
                f"{time.monotonic() - began:.0f} s {checkpoint()}",
                flush=True,
            )
            running = 0.0
            model.train()


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights (fp32), configuration and tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(bos_token_id=END_ID, eos_token_id=END_ID)
    model.float().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name every version knows
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def write_card(out: Path, figures: dict[str, str]) -> None:
    """Fill the model card's template; the folder's size includes the card."""
    text = CARD_TEMPLATE.read_text("utf-8")
    for key, value in figures.items():
        text = text.replace("{" + key + "}", value)
    (out / "README.md").write_text(text, "utf-8")
    if f"`{figures['main']}` is" not in text:
        print("note: README.md describes the data of the model that ships; edit Data and Licence", file=sys.stderr)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; the defaults are the recipe of the model that ships."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--text", type=Path, required=True, help="folder of .txt files")
    add("--out", type=Path, required=True, help="model folder to write")
    add("--glob", default="*.txt", help="which files of the folder to read")
    add("--main", help="file whose end is held out (default: the largest)")
    add("--held-out", type=float, default=0.05, help="share of its bytes held out")
    add("--validation", type=float, default=0.0, help="share set aside for choosing settings")
    add("--vocab", type=int, default=2048)
    add("--window", type=int, default=256, help="positions, at least 256")
    add("--width", type=int, default=192)
    add("--layers", type=int, default=5)
    add("--heads", type=int, default=3)
    add("--dropout", type=float, default=0.15)
    add("--weight-decay", type=float, default=0.1)
    add("--lr", type=float, default=4e-3)
    add("--batch", type=int, default=16, help="windows per step")
    add("--steps", type=int, default=5000)
    add("--mixed", type=float, default=0.5, help="share of the steps that read every file")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1, help="CPU threads")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True, help="autocast")
    add("--compile", action=argparse.BooleanOptionalAction, default=True)
    add("--log-every", type=int, default=250)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, save, score the held-out text and write the card."""
    args = parse_args(argv)
    if args.window < CONTEXT:
        raise SystemExit(f"error: --window must be at least {CONTEXT}")
    corpus = read_corpus(args)
    began = time.monotonic()
    hf_logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer([corpus.main, *corpus.extra], args.vocab, args.window)
    streams = [encode(tokenizer, text) for text in (corpus.main, *corpus.extra)]
    model = build_model(args, len(tokenizer)).to(args.device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters; tokens per file {[len(s) for s in streams]}", flush=True)

    def score(text: str) -> float:
        return bits_per_byte(model, tokenizer, text, CONTEXT, STRIDE)

    def checkpoint() -> str:
        save(model, tokenizer, args.out)
        return f"validation {score(corpus.validation):.4f}" if corpus.validation else ""

    train(model, streams[0], streams[1:], args, checkpoint)
    held_out = score(corpus.held_out)
    minutes = (time.monotonic() - began) / 60
    print(f"held-out bits per byte {held_out:.4f}; {minutes:.1f} minutes", flush=True)
    write_card(
        args.out,
        {
            "parameters": f"{parameters:,}",
            "layers": str(args.layers),
            "width": str(args.width),
            "heads": str(args.heads),
            "vocab": str(len(tokenizer)),
            "window": str(args.window),
            "steps": f"{args.steps:,}",
            "batch": str(args.batch),
            "tokens_seen": f"{args.steps * args.batch * args.window / 1e6:.1f}",
            "tokens": f"{sum(len(s) for s in streams):,}",
            "main": corpus.names[0],
            "files": ", ".join(f"`{name}`" for name in corpus.names),
            "minutes": f"{minutes:.0f}",
            "where": "one GPU" if args.device != "cpu" else f"{args.threads} CPU core{'s'[: args.threads - 1]}",
            "context": str(CONTEXT),
            "stride": str(STRIDE),
            "mixed": f"{args.mixed:.0%}",
            "held_out": f"{args.held_out:.0%}",
            "dropout": str(args.dropout),
            "bits_per_byte": f"{held_out:.4f}",
            "command": "python " + shlex.join(sys.argv if argv is None else [__file__, *argv]),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
