"""`afs training …`: every step of the refinery as a command.

A command of your own is a function that takes the parsed arguments, and four lines in `register_parsers`:

    train_mine = training_sub.add_parser("mine-export", help="Export my data")
    train_mine.add_argument("--output", required=True)
    train_mine.set_defaults(func=training_mine_export_command)
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from afs.cli import FAILED, OK, add_json, add_run_options, how_of, show, show_data

FORMATS = ("alpaca", "sharegpt", "messages", "openai", "chatml", "chatml_text", "prompt_completion", "mlx",
           "mlx_completion", "llama_cpp", "unsloth_thinking", "dpo", "parquet")  # fmt: skip
PROFILES = ("generic", "dialogue", "asm")


def _weights(pairs: list[str] | None, flag: str = "--weight", example: str = "oracle=0.35") -> dict[str, float] | None:
    """`NAME=VALUE` pairs.

    Raises:
        UsageError: a pair has no `=`, its value is no number, or a name comes twice.
    """
    from afs.step import UsageError

    found: dict[str, float] = {}
    for pair in pairs or []:
        name, mark, value = pair.rpartition("=")  # the last: a source's name may hold one
        if not mark or not name:
            raise UsageError(f"{flag} {pair!r} must be NAME=NUMBER, for example {flag} {example}")
        if name in found:
            raise UsageError(f"{flag} {name} is given twice; give it once")
        try:
            found[name] = float(value)
        except ValueError:
            raise UsageError(f"{flag} {pair!r}: {value!r} is no number") from None
    return found or None


# --- rehearsal ------------------------------------------------------------------------------------------------------


def training_rehearsal_build_command(args: argparse.Namespace) -> int:
    """Build a rehearsal buffer from the data of earlier versions."""
    from afs.training import RehearsalBufferConfig, build_rehearsal

    config = RehearsalBufferConfig(
        quality_threshold=args.quality_threshold, top_ratio=args.top_ratio, enable_diversity=args.diversity,
        max_per_domain=args.max_per_domain, compress=args.compress, policy=args.policy,
    )  # fmt: skip
    result = build_rehearsal(args.input, args.version, args.output, config=config, seed=args.seed, how=how_of(args))
    return show(args, result)


def training_rehearsal_mix_command(args: argparse.Namespace) -> int:
    """Mix a buffer with new data."""
    from afs.training import mix_rehearsal

    result = mix_rehearsal(
        args.buffer, args.new_data, args.output, rehearsal_ratio=args.rehearsal_ratio, exclude=args.exclude or (),
        shuffle=not args.no_shuffle, seed=args.seed, policy=args.policy, near=None if args.no_near else args.near,
        how=how_of(args),
    )  # fmt: skip
    return show(args, result)


# --- mixing and splitting -------------------------------------------------------------------------------------------


def training_rebalance_command(args: argparse.Namespace) -> int:
    """Mix data sets by weight, with exact counts."""
    from afs.training import rebalance_dataset

    result = rebalance_dataset(
        [path for group in args.input for path in group], args.output, weights=_weights(args.weight),
        group_by=args.group_by, max_total=args.max_total, allow_oversample=args.allow_oversample,
        max_repeats=args.max_repeats, min_quality_score=args.min_quality_score,
        include_unweighted=args.include_unweighted, seed=args.seed, shuffle=not args.no_shuffle, how=how_of(args),
    )  # fmt: skip
    return show(args, result)


def training_prepare_command(args: argparse.Namespace) -> int:
    """Split a data set into train, val and test without leaks."""
    from afs.training import split_dataset

    result = split_dataset(
        args.input, args.output, train_ratio=args.train_ratio, val_ratio=args.val_ratio, test_ratio=args.test_ratio,
        stratify_by=None if args.no_stratify else args.stratify_by, shuffle=not args.no_shuffle, seed=args.seed,
        near=None if args.no_near else args.near, group_by=tuple(args.group_by) if args.group_by else None,
        fresh=args.fresh, how=how_of(args),
    )  # fmt: skip
    return show(args, result)


def training_dedup_command(args: argparse.Namespace) -> int:
    """Drop exact and near duplicates, or explain one."""
    from afs.training import dedup_jsonl, explain_duplicate

    if args.explain:
        found = explain_duplicate(args.input, args.explain, near=args.near or 0.8, text=args.text)
        return show_data(args, found.to_dict(), found.summary())
    if not args.output:
        from afs.step import UsageError

        raise UsageError("name the file to write with --output, or a row to explain with --explain")
    result = dedup_jsonl(args.input, args.output, near=args.near, text=args.text, keep=args.keep,
                         duplicates_to=args.duplicates, how=how_of(args))  # fmt: skip
    return show(args, result)


# --- scoring and conversion -----------------------------------------------------------------------------------------


def training_score_command(args: argparse.Namespace) -> int:
    """Score every sample (quality_score, with each component in `_metadata`)."""
    from afs.training import scoring

    config = scoring.ScoringConfig.from_profile(
        args.score_profile, use_asar=not args.no_asar, use_electra=not args.no_electra,
        electra_model_path=args.electra, symbols=tuple(args.symbols or ()), batch_size=args.batch_size,
    )  # fmt: skip
    result = scoring.score_jsonl(args.input, args.output, config=config, min_score=args.min_quality_score,
                                 rejected=args.rejected, how=how_of(args))  # fmt: skip
    return show(args, result)


def training_convert_command(args: argparse.Namespace) -> int:
    """Convert samples to a training format."""
    from afs.step import UsageError, expand
    from afs.training import convert_file, convert_folder, list_formats

    if args.list_formats:
        found = list_formats()
        return show_data(args, found, "\n".join(f"{item['name']:18} {item['title']}" for item in found))
    if not args.input:
        raise UsageError("name what to convert with --input, or ask for --list-formats")
    options = {"format": args.format, "thinking": "none" if args.no_cot else args.cot_mode, "system": args.system,
               "template": args.template, "allow_loss": args.allow_loss, "how": how_of(args)}  # fmt: skip
    if not expand(args.input).is_dir():
        return show(args, convert_file(args.input, args.output, **options))
    done = convert_folder(args.input, args.output, **options)
    return show_data(args, [r.report.to_dict() for r in done], "\n".join(r.summary() for r in done))


def training_convert_back_command(args: argparse.Namespace) -> int:
    """Restore samples from a converted file and its meta file."""
    from afs.training import convert_back

    report = convert_back(args.input, args.meta, args.output, format=args.format, how=how_of(args))
    return show_data(args, report.to_dict(), report.summary())


# --- looking --------------------------------------------------------------------------------------------------------


def training_validate_command(args: argparse.Namespace) -> int:
    """Check the health of JSONL files, line by line."""
    from afs.training import validate_jsonl

    reports = [validate_jsonl(path, schema=args.schema) for path in args.input]
    show_data(args, [r.to_dict() for r in reports], "\n\n".join(r.summary() for r in reports))
    return OK if all(r.ok for r in reports) else FAILED


def training_stats_command(args: argparse.Namespace) -> int:
    """Counts, lengths and scores of data sets."""
    from afs.training import dataset_stats

    found = dataset_stats(args.input)
    return show_data(args, found.to_dict(), found.summary())


def training_diff_command(args: argparse.Namespace) -> int:
    """What two data sets (or folders of splits) have in common and what not."""
    from afs.training import diff_datasets

    found = diff_datasets(args.old, args.new, key=args.key)
    return show_data(args, found.to_dict(), found.summary(limit=args.limit))


def training_view_command(args: argparse.Namespace) -> int:
    """Show rows in a readable form."""
    from afs.training import view_rows

    found = view_rows(args.input, line=args.line, count=args.count, sample=args.sample, where=args.where,
                      seed=args.seed)  # fmt: skip
    return show_data(args, found.to_dict(), found.summary())


# --- recipes and generators -----------------------------------------------------------------------------------------


def training_run_command(args: argparse.Namespace) -> int:
    """Run a whole recipe."""
    from afs.training.recipe import run_recipe

    result = run_recipe(args.recipe, how=how_of(args))
    return show_data(args, result.to_dict(), result.summary())


def training_generate_command(args: argparse.Namespace) -> int:
    """Make samples from a source with a generator."""
    from afs.training.recipe import make_generator

    generator = make_generator(args.generator, args.path)
    done = generator.write(args.output, limit=args.limit)
    kinds = ", ".join(f"{name} {n:,}" for name, n in sorted(done.by_domain.items()))
    lines = [f"{done.samples:,} samples ({kinds}) in {args.output}" if done.samples
             else f"{args.path} gave no sample; {args.output} was not written"]  # fmt: skip
    lines += [f"skipped {where}: {why}" for where, why in done.skipped[:20]]
    if len(done.skipped) > 20:
        lines.append(f"… and {len(done.skipped) - 20:,} more files were skipped; --json lists them")
    show_data(args, {"samples": done.samples, "by_domain": done.by_domain, "sha256": done.sha256,
                     "skipped": [{"path": where, "reason": why} for where, why in done.skipped]},
              "\n".join(lines))  # fmt: skip
    return OK if done.samples else FAILED


# --- registry -------------------------------------------------------------------------------------------------------


def _registry(args: argparse.Namespace) -> Any:
    from afs.training import ModelRegistry

    return ModelRegistry(args.registry) if args.registry else ModelRegistry()


def training_registry_create_command(args: argparse.Namespace) -> int:
    """Record an experiment."""
    made = _registry(args).create(
        name=args.name, model=args.model, framework=args.framework, dataset=args.dataset, ab_group=args.ab_group,
        ab_variant=args.ab_variant, tags=args.tag or [], notes=args.notes or "", config=_pairs(args.config),
        allow_missing=args.allow_missing,
    )  # fmt: skip
    return show_data(args, made.to_dict(), made.summary())


def training_registry_list_command(args: argparse.Namespace) -> int:
    """List experiments, the oldest first."""
    found = _registry(args).list(status=args.status, tag=args.tag, framework=args.framework, ab_group=args.ab_group)
    from afs.training.experiment import list_table

    text = list_table(found) if found else "no experiments; record one with `afs training registry-create`"
    return show_data(args, [item.to_dict() for item in found], text)


def training_registry_show_command(args: argparse.Namespace) -> int:
    """Show one experiment."""
    found = _registry(args).get(args.experiment_id)
    return show_data(args, found.to_dict(), found.summary())


def training_registry_update_command(args: argparse.Namespace) -> int:
    """Change an experiment's state, notes or tags; record metrics and artefacts."""
    registry = _registry(args)
    found = registry.update(
        args.experiment_id, status=args.status, notes=args.notes, add_tags=args.tag or [],
        metrics=_weights(args.metric, "--metric", "final_loss=0.42"), artifacts=args.artifact or [],
    )  # fmt: skip
    return show_data(args, found.to_dict(), found.summary())


def training_registry_compare_command(args: argparse.Namespace) -> int:
    """Compare experiments side by side."""
    found = _registry(args).compare(args.experiment_id)
    return show_data(args, found.to_dict(), found.table())


def training_registry_delete_command(args: argparse.Namespace) -> int:
    """Delete experiments."""
    gone = _registry(args).delete_all(args.experiment_id)
    text = "\n".join(f"deleted {item.id}  {item.name}" for item in gone)
    return show_data(args, [item.to_dict() for item in gone], text)


def _pairs(values: list[str] | None) -> dict[str, str]:
    from afs.step import UsageError

    bad = [value for value in values or [] if "=" not in value]
    if bad:
        raise UsageError(f"--config {bad[0]!r} must be NAME=VALUE")
    return dict(value.split("=", 1) for value in values or [])


# --- the parsers ----------------------------------------------------------------------------------------------------


def register_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Add `afs training` and its commands."""
    from afs.cli import exports, toolbench

    training = subparsers.add_parser("training", help="datasets: score, mix, split, convert, look, record")
    training_sub = training.add_subparsers(dest="training_command", metavar="COMMAND", required=True)
    _register_rehearsal(training_sub)
    _register_mixing(training_sub)
    _register_rows(training_sub)
    _register_looking(training_sub)
    _register_making(training_sub)
    _register_registry(training_sub)
    toolbench.register_parsers(training_sub)
    exports.register_parsers(training_sub)


def _register_rehearsal(training_sub: argparse._SubParsersAction) -> None:
    policies = ("top-quality", "random-stratified", "diverse")
    build = training_sub.add_parser("rehearsal-build", help="keep the best samples of earlier versions")
    build.add_argument("--input", required=True, action="append", help="data of an earlier version (repeat)")
    build.add_argument("--version", required=True, action="append", help="its version, one per --input")
    build.add_argument("--output", required=True, help="the buffer to write (.jsonl, .jsonl.gz, .jsonl.zst)")
    build.add_argument("--top-ratio", type=float, default=0.3, help="share to keep (default 0.3)")
    build.add_argument("--quality-threshold", "--min-score", "--min-quality-score", type=float, default=0.5,
                       help="lowest quality score (default 0.5)")  # fmt: skip
    build.add_argument("--max-per-domain", type=int, help="most samples of one domain")
    build.add_argument("--no-diversity", dest="diversity", action="store_false", help="do not spread over domains")
    build.add_argument("--policy", choices=policies, default="top-quality")
    build.add_argument("--compress", action="store_true", help="write .gz")
    build.add_argument("--seed", type=int, default=42)
    add_run_options(build)
    build.set_defaults(func=training_rehearsal_build_command)

    mix = training_sub.add_parser("rehearsal-mix", help="mix a buffer with new data")
    mix.add_argument("--buffer", required=True)
    mix.add_argument("--new-data", required=True)
    mix.add_argument("--output", required=True)
    mix.add_argument("--rehearsal-ratio", type=float, default=0.3, help="share of the final mix (default 0.3)")
    mix.add_argument("--exclude", action="append", help="val or test file (or folder of splits) to stay away from")
    mix.add_argument("--policy", choices=policies, default="top-quality")
    mix.add_argument("--near", type=float, default=0.8, help="similarity of near-duplicates (default 0.8)")
    mix.add_argument("--no-near", action="store_true", help="do not look for near-duplicates of the new data")
    mix.add_argument("--no-shuffle", action="store_true")
    mix.add_argument("--shuffle", dest="no_shuffle", action="store_false", help="the default")
    mix.add_argument("--seed", type=int, default=42)
    add_run_options(mix)
    mix.set_defaults(func=training_rehearsal_mix_command)


def _register_mixing(training_sub: argparse._SubParsersAction) -> None:
    rebalance = training_sub.add_parser("rebalance", help="mix data sets by weight, with exact counts")
    rebalance.add_argument("--input", required=True, action="append", nargs="+", help="data set (repeat)")
    rebalance.add_argument("--output", required=True)
    rebalance.add_argument("--weight", action="append", metavar="NAME=SHARE",
                           help="share of a source, domain, alias or file (repeat)")  # fmt: skip
    rebalance.add_argument("--group-by", choices=("source", "domain"), default="source")
    rebalance.add_argument("--min-quality-score", type=float, help="drop rows with a lower score")
    rebalance.add_argument("--max-total", type=int, help="rows to write at most")
    rebalance.add_argument("--allow-oversample", action="store_true", help="repeat rows of short groups")
    rebalance.add_argument("--max-repeats", type=int, default=4, help="most copies of one row (default 4)")
    rebalance.add_argument("--include-unweighted", action="store_true", help="add the groups without a weight whole")
    rebalance.add_argument("--seed", type=int, default=42)
    rebalance.add_argument("--no-shuffle", action="store_true")
    add_run_options(rebalance)
    rebalance.set_defaults(func=training_rebalance_command)

    prepare = training_sub.add_parser("prepare", help="split into train, val and test without leaks")
    prepare.add_argument("--input", required=True)
    prepare.add_argument("--output", required=True, help="folder for train.jsonl, val.jsonl, test.jsonl")
    prepare.add_argument("--train-ratio", type=float, default=0.8)
    prepare.add_argument("--val-ratio", type=float, default=0.1)
    prepare.add_argument("--test-ratio", type=float, help="default: what is left")
    prepare.add_argument("--stratify-by", default="domain", metavar="KEY", help="keep the shares of this key")
    prepare.add_argument("--no-stratify", action="store_true")
    prepare.add_argument("--group-by", action="append", help="what must not be split (near, session, source; repeat)")
    prepare.add_argument("--near", type=float, default=0.8, help="similarity of near-duplicates (default 0.8)")
    prepare.add_argument("--no-near", action="store_true", help="keep equal texts together only")
    prepare.add_argument("--fresh", action="store_true", help="forget the splits of earlier runs")
    prepare.add_argument("--seed", type=int, default=42)
    prepare.add_argument("--no-shuffle", action="store_true")
    add_run_options(prepare)
    prepare.set_defaults(func=training_prepare_command)

    dedup = training_sub.add_parser("dedup", help="drop exact and near duplicates")
    dedup.add_argument("--input", required=True)
    dedup.add_argument("--output")
    dedup.add_argument("--near", type=float, help="also near duplicates, from this similarity on (for example 0.8)")
    dedup.add_argument("--text", choices=("all", "instruction", "output"), default="all", help="what is compared")
    dedup.add_argument("--keep", choices=("first", "best"), default="first", help="which row stays (default first)")
    dedup.add_argument("--duplicates", metavar="FILE", help="where the others go (default <output>.duplicates.jsonl)")
    dedup.add_argument("--explain", metavar="ID", help="a sample_id or line number: show what it matches and why")
    add_run_options(dedup)
    dedup.set_defaults(func=training_dedup_command)


def _register_rows(training_sub: argparse._SubParsersAction) -> None:
    score = training_sub.add_parser("score", help="score the quality of every sample")
    score.add_argument("--input", required=True)
    score.add_argument("--output", required=True)
    score.add_argument("--score-profile", default="generic", metavar="PROFILE", help=" | ".join(PROFILES))
    score.add_argument("--min-quality-score", "--min-score", type=float, help="drop rows with a lower score")
    score.add_argument("--rejected", help="file for the dropped rows")
    score.add_argument("--electra", help="folder of a trained ELECTRA model")
    score.add_argument("--no-electra", action="store_true", help="without the ELECTRA signal")
    score.add_argument("--no-asar", action="store_true", help="without the assembler signal")
    score.add_argument("--symbols", action="append", help="file of equates for entity coverage (repeat)")
    score.add_argument("--batch-size", type=int, default=128, help="samples scored at a time (default 128)")
    add_run_options(score)
    score.set_defaults(func=training_score_command)

    convert = training_sub.add_parser("convert", help="convert to a training format")
    convert.add_argument("--input", help="file, or folder of splits")
    convert.add_argument("--output", help="default <stem>_<format>.jsonl beside the input")
    convert.add_argument("--list-formats", action="store_true", help="what there is")
    convert.add_argument("--template", help="of the text formats: chatml | llama3 | mistral | alpaca")
    convert.add_argument("--format", default="alpaca", help=f"{' | '.join(FORMATS)}, or a plug-in's")
    convert.add_argument("--cot-mode", "--thinking", choices=("none", "separate", "embedded", "special_tokens"),
                         default="separate", help="where `thinking` goes")  # fmt: skip
    convert.add_argument("--no-cot", action="store_true", help="leave `thinking` out (with --allow-loss)")
    convert.add_argument("--system", help="system message for every row (default none)")
    convert.add_argument("--allow-loss", action="store_true", help="go on although text is lost")
    add_run_options(convert)
    convert.set_defaults(func=training_convert_command)

    back = training_sub.add_parser("convert-back", help="restore samples from a converted file")
    back.add_argument("--input", required=True)
    back.add_argument("--meta", help="default <input>.meta.jsonl")
    back.add_argument("--output", help="file to write")
    back.add_argument("--format", help="default: what the meta file says")
    add_run_options(back, parallel=False)
    back.set_defaults(func=training_convert_back_command)


def _register_looking(training_sub: argparse._SubParsersAction) -> None:
    validate = training_sub.add_parser("validate", help="check the health of JSONL files")
    validate.add_argument("--input", required=True, action="append")
    validate.add_argument("--schema", default="auto", help="auto, or the one format that every row must have")
    add_json(validate)
    validate.set_defaults(func=training_validate_command)

    stats = training_sub.add_parser("stats", help="counts, lengths and scores")
    stats.add_argument("--input", required=True, action="append")
    add_json(stats)
    stats.set_defaults(func=training_stats_command)

    diff = training_sub.add_parser("diff", help="added, removed, changed and moved rows")
    diff.add_argument("old", help="file, or folder of splits")
    diff.add_argument("new", help="file, or folder of splits")
    diff.add_argument("--key", choices=("id", "content"), default="id")
    diff.add_argument("--limit", type=int, default=10, help="rows shown of each kind (default 10)")
    add_json(diff)
    diff.set_defaults(func=training_diff_command)

    view = training_sub.add_parser("view", help="show rows in a readable form")
    view.add_argument("input")
    view.add_argument("--line", type=int, help="begin at this line")
    view.add_argument("--count", type=int, default=3, help="rows to show (default 3)")
    view.add_argument("--sample", action="store_true", help="rows at random")
    view.add_argument("--where", help="only rows with KEY=VALUE")
    view.add_argument("--seed", type=int, default=42)
    add_json(view)
    view.set_defaults(func=training_view_command)


def _register_making(training_sub: argparse._SubParsersAction) -> None:
    run = training_sub.add_parser("run", help="run a recipe: sources to splits, card and manifest")
    run.add_argument("recipe", type=Path, help="a .toml file")
    add_run_options(run)
    run.set_defaults(func=training_run_command)

    generate = training_sub.add_parser("generate", help="make samples from documents, code or a plug-in's source")
    generate.add_argument("--generator", required=True, help="docs | code | a plug-in's name")
    generate.add_argument("--path", required=True, help="the source")
    generate.add_argument("--output", required=True)
    generate.add_argument("--limit", type=int, help="samples at most")
    add_json(generate)
    generate.set_defaults(func=training_generate_command)


def _register_registry(training_sub: argparse._SubParsersAction) -> None:
    def command(name: str, text: str, func: Any) -> argparse.ArgumentParser:
        made = training_sub.add_parser(f"registry-{name}", help=text)
        made.add_argument("--registry", help="registry file (default ~/.afs/registry.sqlite)")
        add_json(made)
        made.set_defaults(func=func)
        return made

    create = command("create", "record an experiment", training_registry_create_command)
    create.add_argument("--name", required=True)
    create.add_argument("--model", required=True, help="base model")
    create.add_argument("--framework", default="transformers")
    create.add_argument("--dataset", help="the data it is trained on; its content hash is recorded")
    create.add_argument("--allow-missing", action="store_true", help="the data set is not here")
    create.add_argument("--ab-group")
    create.add_argument("--ab-variant")
    create.add_argument("--tag", action="append")
    create.add_argument("--config", action="append", metavar="NAME=VALUE")
    create.add_argument("--notes")

    listing = command("list", "list experiments", training_registry_list_command)
    for flag in ("--status", "--tag", "--framework", "--ab-group"):
        listing.add_argument(flag)

    shown = command("show", "show one experiment", training_registry_show_command)
    shown.add_argument("experiment_id")

    update = command("update", "change an experiment, record metrics", training_registry_update_command)
    update.add_argument("experiment_id")
    update.add_argument("--status", help="pending | running | completed | failed | cancelled")
    update.add_argument("--notes")
    update.add_argument("--tag", action="append")
    update.add_argument("--metric", action="append", metavar="NAME=NUMBER")
    update.add_argument("--artifact", action="append", help="file or folder that the experiment made")

    compare = command("compare", "compare experiments", training_registry_compare_command)
    compare.add_argument("experiment_id", nargs="+")

    delete = command("delete", "delete experiments", training_registry_delete_command)
    delete.add_argument("experiment_id", nargs="+")
