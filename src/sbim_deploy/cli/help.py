"""How a command's help is laid out: options by what they are about, and examples."""

from __future__ import annotations

from typing import Any

import typer.core

from sbim_deploy.cli.renamed import with_new_names

# What an option is about, by its name in the code; the others stand under "Options".
SECTIONS = {
    "Input": (
        *("layout", "variable", "orientation", "slices", "undersample", "mask_convention"),
        *("dimensions", "volume", "trajectory", "matrix"),
        *("maps", "map_method", "map_sets", "noise"),
    ),
    "Sampler": (
        *("method", "preset", "sampler", "steps", "plan", "samples", "seed", "start", "start_sigma"),
        *("schedule", "corrector_steps", "corrector_step_from", "langevin_step", "guidance"),
        *("data_weight", "prior_weight", "eta", "denoising", "published", "through_plane"),
    ),
    "Engine": ("model", "backend", "precision", "server", "device", "graph", "threads", "batch"),
    "Output": (
        *("output", "output_format", "png", "nifti", "report", "identity", "salt", "keep_grid"),
        *("scale", "resume", "force", "json", "quiet", "verbose"),
    ),
    "Study": ("workers", "scheduler", "resources"),
}
WITH_SECTIONS = ("recon", "plan", "sample", "serve")

EXAMPLES = {
    "demo": ["sbim-deploy demo -o demo"],
    "recon": [
        "sbim-deploy recon kspace.h5 -o images.h5 --png images.png",
        "sbim-deploy recon meas.dat -o dicom/ --format dicom",
        "sbim-deploy recon kspace.h5 -o mean.h5 --preset fast --samples 4 --report mean.html",
        "sbim-deploy recon kspace.npy -t trajectory.npy -o images.h5",
        "sbim-deploy recon mprage.h5 --dimensions 3 --through-plane -o volume.h5",
        "sbim-deploy recon scans/ -o images/ --workers 2",
        "sbim-deploy recon - -o - < scan.mrd2 > images.mrd2",
    ],
    "evaluate": ["sbim-deploy evaluate images.h5 --reference kspace.h5 --data-range volume"],
    "experiment": ["sbim-deploy experiment experiments/quick.yaml -o quick"],
    "simulate": [
        "sbim-deploy simulate -o kspace.h5 --slices 4 --undersample 4",
        "sbim-deploy simulate -o scan.mrd --format mrd",
        "sbim-deploy simulate -o golden.mrd --trajectory golden --undersample 6",
        "sbim-deploy simulate -o volume.h5 --dimensions 3 --undersample caipirinha:4",
        "sbim-deploy simulate -o stack.h5 --dimensions 3 --trajectory golden --size 64",
    ],
    "plan": ["sbim-deploy plan --preset thesis", "sbim-deploy plan --steps 16 --json > plan.json"],
    "sample": ["sbim-deploy sample demo -n 16 -o samples.h5 --png samples.png"],
    "info": ["sbim-deploy info kspace.h5", "sbim-deploy info model --json"],
    "export": [
        "sbim-deploy export checkpoint.pth --config config.yaml -o model",
        "sbim-deploy export --module package.file:factory -o model",
    ],
    "build": ["sbim-deploy build model --backend rtx --sm 89"],
    "validate": ["sbim-deploy validate model --checkpoint checkpoint.pth --config config.yaml"],
    "bench": ["sbim-deploy bench demo --size 128x128 --coils 8"],
    "triton": ["sbim-deploy triton model -o repository"],
    "train": ["sbim-deploy train --config recipes/brain-ngf16.yaml -o run"],
    "replay": ["sbim-deploy replay scan.mrd -o images.mrd --server 127.0.0.1:9002"],
    "serve": ["sbim-deploy serve --port 9002 --save-raw raw/"],
}


class Command(typer.core.TyperCommand):
    """A command whose help parts its options by what they are about, and ends with examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, with options that were renamed under their former names too."""
        return super().parse_args(ctx, with_new_names(self.name or "", args))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and the options under their sections."""
        rows: dict[str, list[tuple[str, str]]] = {}
        sections = SECTIONS if self.name in WITH_SECTIONS else {}
        section_of = {name: title for title, names in sections.items() for name in names}
        for param in self.get_params(ctx):
            row = param.get_help_record(ctx)
            if row is not None:
                is_argument = param.param_type_name == "argument"
                title = "Arguments" if is_argument else section_of.get(param.name or "", "Options")
                rows.setdefault(title, []).append(row)
        for title in ("Arguments", *SECTIONS, "Options"):
            if title in rows:
                with formatter.section(title):
                    formatter.write_dl(rows[title])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, a line each."""
        with formatter.section("Examples"):
            for line in EXAMPLES[self.name or ""]:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
