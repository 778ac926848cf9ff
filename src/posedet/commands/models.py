"""The commands about model files: `posedet info | weights | export | quantise | convert`."""

import argparse
import json
from pathlib import Path

from posedet.commands.options import AddCommand, add_overwrite, add_settings, claim
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import find_photos, one_line
from posedet.outputs import make_folder


def add_commands(add: AddCommand) -> None:
    weights = add("weights", "list or download released models", "weights list")
    whats = weights.add_subparsers(required=True, metavar="WHAT")
    listing = whats.add_parser("list", help="list the released models, their sizes, and where they are")
    listing.set_defaults(command=_list)
    fetch = whats.add_parser("fetch", help="download a model unless it is cached, and print its path")
    fetch.add_argument("model", metavar="NAME|URL|PATH", help="a name, a path, or https://...#sha256=HEX")
    fetch.add_argument("--offline", action="store_true", help="never download (POSEDET_OFFLINE=1 does so everywhere)")
    fetch.set_defaults(command=_fetch)

    export = add("export", "weights -> one ONNX file (needs posedet[export])", "export weights.safetensors model.onnx")
    export.add_argument("weights", nargs="?", help="weights.safetensors of a training run")
    export.add_argument("output", nargs="?", type=Path, help="ONNX file to write")
    export.add_argument("--compact", action="store_true", help="store weights in 8 bits: a quarter of the file size")
    export.add_argument(
        "--triton",
        type=Path,
        metavar="FOLDER",
        help="write a model repository for Triton instead, from an ONNX file (default: posedet-s); needs no PyTorch",
    )
    add_overwrite(export)
    export.set_defaults(command=_export)

    quantise = add(
        "quantise",
        "float ONNX file -> INT8 ONNX file, smaller and faster (needs posedet[quantise])",
        "quantise model.onnx model-int8.onnx --photos holiday/",
    )
    quantise.add_argument("model", help="posedet ONNX file in float32 or float16, or a released model's name")
    quantise.add_argument("output", type=Path, help="ONNX file to write")
    quantise.add_argument(
        "--photos",
        nargs="+",
        required=True,
        metavar="PATH",
        help="photos, folders or quoted patterns for calibration: a few hundred typical photos",
    )
    add_overwrite(quantise)
    quantise.set_defaults(command=_quantise)

    convert = add(
        "convert",
        "official PoseDet checkpoint -> weights (needs posedet[export])",
        "convert official.pth weights.safetensors --preset dla34-coco",
    )
    convert.add_argument("checkpoint", help="the official .pth: a path, or https://...#sha256=HEX")
    convert.add_argument("output", type=Path, help="safetensors file to write")
    convert.add_argument("--preset", required=True, help="network of the checkpoint: name of a preset, or a TOML file")
    add_settings(convert)
    add_overwrite(convert)
    convert.set_defaults(command=_convert)

    info = add("info", "metadata of a model file", "info model.onnx")
    info.add_argument("model", nargs="?", help="ONNX file (default: the shipped model)")
    info.set_defaults(command=_info)


def _list(_: argparse.Namespace) -> int:
    from posedet.runtime.model_files import RELEASES, available_file, cache_folder

    width = max(map(len, RELEASES))
    for name, release in RELEASES.items():
        path = available_file(name)
        where = one_line(path) if path else f"not downloaded: {release.url}"
        where = where if release.url else "in the package"
        print(f"{name:<{width}}  {release.num_bytes / 1e6:6.1f} MB  {where}")
    print(f"cache: {one_line(cache_folder())}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from posedet.runtime.model_files import model_file

    print(one_line(model_file(options.model, offline=options.offline)))
    return 0


def _export(options: argparse.Namespace) -> int:
    if options.triton is not None:
        return _export_to_triton(options)
    if options.weights is None or options.output is None:
        raise ConfigError("export: name the weights and the ONNX file to write, or a folder with --triton")
    needs("posedet export", "export", ("torch", "onnx", "onnxscript", "safetensors"))
    from posedet.weights.export import GENERATOR, export

    beside = [options.output.with_suffix(".safetensors")] if options.compact else []
    claim(options, GENERATOR, [options.output, *beside])
    make_folder(options.output.parent)
    difference = export(Path(options.weights), options.output, compact=options.compact)
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {size:.1f} MB, keypoints within {difference:.1g} pixels of PyTorch's")
    return 0


def _export_to_triton(options: argparse.Namespace) -> int:
    from posedet.runtime.detector import DEFAULT_MODEL
    from posedet.runtime.model_files import model_file
    from posedet.weights.triton import GENERATOR, repository, write_repository

    if options.output is not None or options.compact:
        raise ConfigError("export: --triton takes one ONNX file and goes with neither an output nor --compact")
    model = model_file(options.weights or DEFAULT_MODEL)
    claim(options, GENERATOR, [*repository(options.triton, model)], reads=[model])
    for file in write_repository(options.triton, model):
        print(one_line(file))
    return 0


def _quantise(options: argparse.Namespace) -> int:
    needs("posedet quantise", "quantise", ("onnx",))
    from posedet.runtime.model_files import model_file
    from posedet.weights.quantise import GENERATOR, quantise

    claim(options, GENERATOR, [options.output])
    photos = find_photos(options.photos)
    model = model_file(options.model)
    quantise(model, options.output, photos)
    before, after = (path.stat().st_size / 1e6 for path in (model, options.output))
    print(f"{one_line(options.output)}: {after:.1f} MB (before: {before:.1f}), calibrated on {len(photos)} photos")
    return 0


def _convert(options: argparse.Namespace) -> int:
    needs("posedet convert", "export", ("torch", "safetensors"))
    from posedet.config import load_config
    from posedet.weights.official import GENERATOR, convert

    claim(options, GENERATOR, [options.output])
    make_folder(options.output.parent)
    conversion = convert(options.checkpoint, options.output, load_config(options.preset, options.set))
    for name, reason in conversion.dropped.items():
        print(f"dropped {name}: {reason}")
    placed, dropped = len(conversion.weights), len(conversion.dropped)
    print(f"{options.output}: {placed} tensors converted, {dropped} dropped, none missing")
    return 0


def _info(options: argparse.Namespace) -> int:
    from posedet.runtime.detector import PoseDet

    about = PoseDet(options.model).about
    print(f"{about.name} (posedet {about.version}): {len(about.skeleton.keypoints)} keypoints, {about.skeleton.name}")
    print(json.dumps(about.config, indent=1))
    return 0
