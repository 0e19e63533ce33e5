"""The tables of docs/counts.md: what the papers print, what their tools count in our networks, and what we count.

python -m benchmarks.counts       # rewrites them from results/costs.json (`farpose models --count`)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from components.base.config import REPOSITORY, load_yaml
from components.base.files import atomic_file
from components.models import zoo
from components.models.costs import Costs
from components.models.variant import Variant
from pipelines import counts

PAGE = REPOSITORY / "docs" / "counts.md"
BEGIN, END = "<!-- tables: python -m benchmarks.counts -->", "<!-- end of tables -->"

_TRANSPOSE = """TransPose's rows in SRPose's table start from the 8.9 of TransPose's own README, which no tool gives. Counting the
deconvolution at its output and the products of attention comes near (8.74). The step from the plain head to the SR head is 0.32 as
printed and 0.31 as counted. How SRPose uses TransPose was not published: ours has the printed parameters."""
_HRFORMER = """SRPose on HRFormer-S counts the train-only heads (0.318 M, 0.038 G) as backbone; all other rows leave them out.
With them the count is 8.21 M and 3.34 G."""
_SHARPOSE = """SHaRPose's table could not be read: these numbers are recalled, not verified. The count is that of the
network that its code builds."""
_SIMCC = """SimCC's README prints 53.7 M for ResNet-101 at 256x192. Its two linear layers add 2.75 M to 52.99 M, as they do to ResNet-50
(36.8 M): 55.75 M."""
_SCALED = """The HRNet README's SimpleBaseline rows at 384x288 are 2.25 times its rows at 256x192 after those were cut to one digit
(8.9 → 20.0, 15.7 → 35.3)."""
_UDP = """UDP's README prints the HRNet README's numbers plus 0.2 M for every backbone. Its offset maps add 0.009 M to a ResNet, and
together with the wider last fusion 0.05 M to W32 and 0.12 M to W48."""
_UDP_GFLOPS = """UDP's rows on ResNets are not reproduced: its maps add 0.025 to SimpleBaseline's 8.99 at 256x192, so neither 8.96 nor 20.1
(2.25 times 8.96, cut) nor 35.7 comes out."""
_LITEPOSE = """LitePose prints 2 to 4 % more than the tool of its repository gives. Two more per element of a norm come within 0.1 of its
rows (1.19, 4.94, 7.79, 13.6) except for the 13.8 of L on COCO, whose row for CrowdPose has 13.7."""
_HIGHERPOSE = """HigherPose's README prints 29.06 M and 12.01: the tool gives 29.06 M and 12.00 if the first transformer has no layer and
the second has three. COCO's configuration asks for six and six; CrowdPose's leaves the defaults, four and four. No count includes the
tables of positions (0.135 M, at 512x512 0.541 M; sines for COCO, trained for CrowdPose)."""
_HIGHERPOSE_512 = """HigherPose's 54.9 at 512x512 is not four times its 12.01 (48.0), and no number of layers that also gives the 29.06 M
comes near."""

# Printed numbers that counting does not reproduce: (pattern of variants, field of `paper`) → reason. A test fails on any other.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("*transpose_r_a4_coco_256x192", "gflops"): _TRANSPOSE,
    ("srpose_hrformer_s_coco_256x192", "params_backbone_m"): _HRFORMER,
    ("srpose_hrformer_s_coco_256x192", "gflops"): _HRFORMER,
    ("sharpose_base_coco_*", "params_m"): _SHARPOSE,
    ("sharpose_base_coco_384x288", "gflops"): _SHARPOSE,
    ("simcc_resnet101_coco_256x192", "params_m"): _SIMCC,
    ("simple_resnet*_coco_384x288", "gflops"): _SCALED,
    ("udp_offset_*", "params_m"): _UDP,
    ("udp_offset_resnet*", "gflops"): _UDP_GFLOPS,
    ("litepose_?_*", "gflops"): _LITEPOSE,
    ("higherpose_w32_*", "params_m"): _HIGHERPOSE,
    ("higherpose_w32_coco_256", "gflops"): _HIGHERPOSE,
    ("higherpose_w32_coco_512", "gflops"): _HIGHERPOSE_512,
}


@dataclass(frozen=True)
class Number:
    """One printed number and its count, both in millions of parameters or in 1e9 (2³⁰) multiply-adds."""

    variant: str
    field: str
    printed: float
    counted: float

    @property
    def agrees(self) -> bool:
        """They differ by less than a unit of the last printed digit (the papers round and cut, and YAML drops a final 0)."""
        digits = max(1, len(repr(float(self.printed)).split(".")[1]))
        return abs(self.printed - self.counted) < 10**-digits

    @property
    def exception(self) -> tuple[str, str] | None:
        """The entry of `EXCEPTIONS` that explains a disagreement; None if the numbers agree or nothing explains it."""
        if self.agrees:
            return None
        return next((key for key in EXCEPTIONS if fnmatch(self.variant, key[0]) and self.field == key[1]), None)


def printed(variant: Variant, spent: Costs) -> list[Number]:
    """Every count that the variant's paper prints, with ours by the paper's own tool."""
    paper = variant.paper
    params = spent.params_summary if paper.counting.startswith("summary") else spent.params
    pairs = {
        "params_m": (paper.params_m, params / 1e6),
        "params_backbone_m": (paper.params_backbone_m, spent.params_backbone / 1e6),
        "params_head_m": (paper.params_head_m, spent.params_head / 1e6),
        "gflops": (paper.gflops, spent.gflops(paper.counting)),
    }
    return [Number(variant.name, field, value, counted) for field, (value, counted) in pairs.items() if value is not None]


def tables() -> Iterator[str]:
    """One Markdown table per file of params/variants/, then the reasons."""
    variants, known = zoo.load_variants(), counts.stored()
    reasons: list[str] = []
    for path in sorted(zoo.VARIANTS.glob("*.yaml")):
        rows = [_row(variants[name], counts.of_variant(variants[name], known), reasons) for name in load_yaml(path) if name in variants]
        if any(rows):
            yield f"\n### {path.name}\n"
            yield "| variant | printed M | counted M | printed G | counted G | tool | ours G | |"
            yield "|---|---|---|---|---|---|---|---|"
            yield from filter(None, rows)
    yield "\n### Why some differ\n"
    yield from (f"{number}. {' '.join(reason.split())}" for number, reason in enumerate(reasons, start=1))


def _row(variant: Variant, spent: Costs, reasons: list[str]) -> str:
    """A line of the table; empty if the paper prints no count."""
    numbers = printed(variant, spent)
    if not numbers:
        return ""
    params = [number for number in numbers if number.field != "gflops"]
    macs = [number for number in numbers if number.field == "gflops"]
    notes = []
    for number in numbers:
        if number.exception:
            reason = EXCEPTIONS[number.exception]
            if reason not in reasons:
                reasons.append(reason)
            notes.append(reasons.index(reason) + 1)
    cells = [
        variant.name,
        " + ".join(f"{float(number.printed)}" for number in params),
        " + ".join(f"{number.counted:.3f}" for number in params),
        " ".join(f"{float(number.printed)}" for number in macs),
        " ".join(f"{number.counted:.3f}" for number in macs),
        variant.paper.counting if macs else "",
        f"{spent.macs / 1e9:.3f}",
        ", ".join(f"({note})" for note in dict.fromkeys(notes)),
    ]
    return f"| {' | '.join(cells)} |"


def write(page: Path = PAGE) -> None:
    """Replace the page's tables."""
    text = page.read_text()
    between = "\n".join([BEGIN, *tables(), END])
    with atomic_file(page) as temporary:
        temporary.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda match: between, text, flags=re.DOTALL))


if __name__ == "__main__":
    write()
