"""`afs discriminator data | train | score | filter | evaluate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from afs.cli import OK, add_json, add_run_options, how_of, show, show_data


def data_command(args: argparse.Namespace) -> int:
    """Make training data from assembly sources."""
    from afs.discriminator import make_data

    result = make_data(args.sources, args.output, fake_ratio=args.fake_ratio, min_lines=args.min_lines,
                       max_lines=args.max_lines, seed=args.seed, how=how_of(args))  # fmt: skip
    return show(args, result)


def train_command(args: argparse.Namespace) -> int:
    """Train, calibrate, judge, and write the model with its card."""
    from afs.discriminator import TrainConfig, train_discriminator

    names = ("base_model", "epochs", "batch_size", "gradient_accumulation_steps", "learning_rate", "max_length", "seed",
             "device")  # fmt: skip
    config = TrainConfig(**{name: getattr(args, name) for name in names})
    result = train_discriminator(args.input, args.output, val=args.val, config=config, resume=args.resume,
                                 force=args.force, leave_out=args.leave_one_out)  # fmt: skip
    return show_data(args, result.card, result.summary())


def score_command(args: argparse.Namespace) -> int:
    """Score a JSONL file, or one text."""
    from afs.discriminator import ASMElectra, score_jsonl
    from afs.step import UsageError, expand

    if (args.input is None) != (args.output is None) or sum(map(bool, (args.input, args.text, args.file))) != 1:
        raise UsageError("name one of: --input with --output, --text, --file")
    if args.input:
        return show(args, score_jsonl(args.model, args.input, args.output, batch_size=args.batch_size,
                                      device=args.device, how=how_of(args)))  # fmt: skip
    text = args.text or expand(args.file).read_text("utf-8")
    score = ASMElectra.load(args.model, args.device).score(text)
    return show_data(args, {"electra_score": round(score, 4)}, f"{score:.4f}")


def filter_command(args: argparse.Namespace) -> int:
    """Keep the rows that reach a score."""
    from afs.discriminator import filter_jsonl

    result = filter_jsonl(
        args.model, args.input, args.output, rejected=args.rejected, min_score=args.min_score,
        keep_unscored=args.keep_unscored, batch_size=args.batch_size, device=args.device, how=how_of(args),
    )  # fmt: skip
    return show(args, result)


def evaluate_command(args: argparse.Namespace) -> int:
    """Compare the model with what it has to beat."""
    from afs.cli import _plain
    from afs.discriminator import evaluate_model
    from afs.jsonl import AtomicWriter
    from afs.step import UsageError, expand

    if args.output and expand(args.output).resolve() == expand(args.input).resolve():
        raise UsageError(f"output {args.output} is also the input; choose another name, inputs are never overwritten")
    found = evaluate_model(args.model, args.input, split=args.split, samples=args.samples, seed=args.seed,
                           batch_size=args.batch_size, device=args.device)  # fmt: skip
    if args.output:
        with AtomicWriter(expand(Path(args.output))) as out:
            out.write_raw(json.dumps(_plain(found.to_dict()), ensure_ascii=False, indent=2).encode())
    show_data(args, found.to_dict(), found.summary())
    return OK


def _model_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--model", required=required, metavar="FOLDER", help="a trained model, e.g. models/electra")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts at a time (default 32)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")


def register_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add the commands."""
    group = subparsers.add_parser("discriminator", help="ELECTRA: real or broken 65816 assembly?")
    sub = group.add_subparsers(dest="discriminator_command", metavar="COMMAND", required=True)

    data = sub.add_parser("data", help="training data from assembly sources")
    data.add_argument("--sources", required=True, nargs="+", metavar="PATH", help="files and folders of .asm, .s, .inc")
    data.add_argument("--output", required=True, metavar="FILE")
    data.add_argument("--fake-ratio", type=float, default=0.5, help="share of broken routines (default 0.5)")
    data.add_argument("--min-lines", type=int, default=3, help="instructions that a routine has at least (default 3)")
    data.add_argument("--max-lines", type=int, default=50, help="lines that a piece has at most (default 50)")
    data.add_argument("--seed", type=int, default=42)
    add_run_options(data, parallel=False)
    data.set_defaults(func=data_command)

    _register_train(sub)

    score = sub.add_parser("score", help="add _electra_score and quality_score to every row")
    _model_options(score)
    score.add_argument("--input", metavar="FILE")
    score.add_argument("--output", metavar="FILE")
    score.add_argument("--text", help="score this text instead of a file")
    score.add_argument("--file", help="score this assembly file instead")
    add_run_options(score, parallel=False)
    score.set_defaults(func=score_command)

    keep = sub.add_parser("filter", help="keep the rows that reach a score")
    _model_options(keep)
    keep.add_argument("--input", required=True, metavar="FILE")
    keep.add_argument("--output", required=True, metavar="FILE")
    keep.add_argument("--rejected", metavar="FILE", help="where the other rows go")
    keep.add_argument("--min-score", type=float, default=0.5, help="lowest score that is kept (default 0.5)")
    keep.add_argument("--keep-unscored", action="store_true", help="keep rows without assembly, too")
    add_run_options(keep, parallel=False)
    keep.set_defaults(func=filter_command)

    judge = sub.add_parser("evaluate", help="the model against what it has to beat")
    _model_options(judge)
    judge.add_argument("--input", required=True, metavar="FILE", help="a file of `afs discriminator data`")
    judge.add_argument("--output", metavar="FILE", help="also write the table as JSON")
    judge.add_argument("--split", default="test", help="train, val, test or all (default test)")
    judge.add_argument("--samples", type=int, default=1000, help="bootstrap samples (default 1000)")
    judge.add_argument("--seed", type=int, default=42)
    add_json(judge)
    judge.set_defaults(func=evaluate_command)


def _register_train(sub: argparse._SubParsersAction) -> None:
    train = sub.add_parser("train", help="train a discriminator")
    train.add_argument("--input", required=True, metavar="FILE", help="a file of `afs discriminator data`")
    train.add_argument("--output", required=True, metavar="FOLDER", help="e.g. models/electra")
    train.add_argument("--val", metavar="FILE", help="val rows from another file")
    train.add_argument("--base-model", default="google/electra-base-discriminator", metavar="NAME",
                       help="a folder, a hub id, or tiny (made here, no download)")  # fmt: skip
    train.add_argument("--epochs", type=int, default=3)
    train.add_argument("--batch-size", type=int, default=32)
    train.add_argument("--gradient-accumulation-steps", type=int, default=1, metavar="N")
    train.add_argument("--learning-rate", type=float, help="default 5e-5, for a tiny base 5e-4")
    train.add_argument("--max-length", type=int, default=512, help="tokens of a text that are seen (default 512)")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    train.add_argument("--seed", type=int, default=42)
    train.add_argument("--resume", action="store_true", help="go on with an unfinished training")
    train.add_argument("--force", action="store_true", help="replace a model, forget an unfinished training")
    train.add_argument("--leave-one-out", action="store_true",
                       help="also train without each corruption, for the card (several trainings more)")  # fmt: skip
    add_json(train)
    train.set_defaults(func=train_command)
