"""What a flow run's page in Prefect carries: tables, the curve, links. A page that cannot be sent stops no flow."""

from __future__ import annotations

import base64
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from components.registry import tracking
from pipelines.driver import StageResult

COMPARISON = Path("artifacts", "comparison")
CURVE = "by_height.png"
PATIENCE_S = 120.0  # a Prefect server that restarts
FAILED, WAITED = "failed", "not started"
SIZED = re.compile(r"(?<![\w`@])(?:\w+@)?\w*\d+x\d+\w*(?:@\w+)?(?![\w`])")


def stages(results: Sequence[StageResult], failures: Mapping[str, str], waited: Sequence[str], links: Mapping[str, str]) -> None:
    """What became of every stage.

    Args:
        failures: stage → why.
        waited: stages that need a failed one.
        links: stage → address of its MLflow run.
    """
    rows = [(one.name, one.outcome, f"{one.seconds:.0f}") for one in results]
    rows += [(name, f"**{FAILED}**: {_cell(why)}", "") for name, why in failures.items()]
    rows += [(name, WAITED, "") for name in waited]
    shown = [f"| {f'[{name}]({links[name]})' if name in links else name} | {what} | {took} |" for name, what, took in rows]
    markdown("stages", "\n".join(["| stage | outcome | s |", "|---|---|---:|", *shown]), "What became of every stage")


def leaderboard(root: Path) -> None:
    """The table of all variants, and the curve against person height as an image, which needs no other server to be seen."""
    table, curve = root / COMPARISON / "comparison.md", root / COMPARISON / CURVE
    if table.is_file():
        markdown("leaderboard", table.read_text(), "All variants of this run")
    if curve.is_file():
        image = base64.b64encode(curve.read_bytes()).decode()  # an image artifact would print these 140 kB below the picture
        markdown("curve", f"![curve](data:image/png;base64,{image})", "The leading number against person height")


def markdown(key: str, text: str, description: str) -> None:
    _send(lambda: create_markdown_artifact(verbatim(text), key=key, description=description))


def verbatim(text: str) -> str:
    """Names such as hrnet_w32_coco_64x48 as code, because Prefect's page turns their x into a times sign, and the copied name is no name.

    Fenced text and pictures are left as they are.
    """
    return text if text.startswith(("```", "![")) else SIZED.sub(r"`\g<0>`", text)


def mlflow(parent: tracking.Run) -> dict[str, str]:
    """Link the run that the stages' runs are inside of; stage → address of its run. Empty if no server shows MLflow's pages."""
    address = _mlflow_pages()
    if not address or not parent.answers:
        return {}
    from pipelines import servers

    def page(run: str) -> str:
        return f"{address}/#/experiments/{parent.experiment_id}/runs/{run}?workflowType={servers.TRAINING}"

    about = "Parameters, metrics and pictures of this flow's stages"
    _send(lambda: create_link_artifact(page(parent.run_id), link_text="the run in MLflow", key="mlflow", description=about))
    return {name: page(child) for name, child in tracking.children(parent).items()}


def _mlflow_pages() -> str:
    """Where a browser finds MLflow's pages."""
    from components.registry import store
    from pipelines import served, servers

    uri = store.tracking_uri()
    if uri.startswith(("http://", "https://")):
        parts = urlsplit(uri)  # a name and password stay out of the page
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    record = served.read()
    return record.addresses.get(servers.MLFLOW, "") if servers.MLFLOW in record.living() else ""


def _cell(text: str) -> str:
    """As it may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _send(create: Callable[[], Any]) -> None:
    """Try again while Prefect's server restarts: the client gives up at once where it was never connected."""
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            create()
            return
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if time.monotonic() > deadline:
                print(f"Prefect does not take a part of the run's page: {error}", file=sys.stderr)
                return
        time.sleep(2.0)
