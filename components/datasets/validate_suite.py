"""The Great Expectations suites of the validate stage, with results that do not change between runs."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import pandas as pd

from components.datasets.params import DEV, TRAIN, ValidationParams
from components.datasets.reader import Reader
from components.datasets.validate_columns import HANDS
from components.datasets.validate_images import WHOLE
from components.pose.persons import OPTIONAL_COLUMNS, SCALAR_COLUMNS
from components.pose.skeleton import Skeleton

HAND_REACH, HANDS_ELSEWHERE = 0.25, 0.02  # longer sides of the box; share of the persons, whose wrist is hidden or wrong
EXAMPLES = 5  # offending rows listed per check
ROW_NAMES = {"persons": ["annotation_id", "image_path"], "images": ["image_id", "image_path"]}


@dataclass(frozen=True)
class Check:
    """The result of one expectation.

    Attributes:
        table: "persons" or "images".
        check: the requirement, in words.
        checked: number of rows checked; `unexpected` of them violate the requirement.
        allowed_share: share of the checked rows that may violate it.
        examples: the first offending rows: annotation or image id, image path, value.
    """

    table: str
    check: str
    expectation: str
    column: str | None
    success: bool
    checked: int
    unexpected: int
    allowed_share: float
    examples: tuple[dict[str, Any], ...]

    def failure(self) -> str:
        """The failed check and its first offending rows, on one line."""
        rows = ", ".join(_row_in_words(example, self.column) for example in self.examples[:3])
        return f"{self.check}: not so in {self.unexpected} of {self.checked} {self.table}" + (f" ({rows})" if rows else "")


def _row_in_words(example: dict[str, Any], column: str | None) -> str:
    kind = "annotation" if "annotation_id" in example else "image"
    return f"{kind} {example[f'{kind}_id']} in {example['image_path']}: {column} = {example['value']}"


def run_suites(
    tables: dict[str, pd.DataFrame], splits: list[str], params: ValidationParams, skeleton: Skeleton, reader: Reader
) -> tuple[list[Check], list[Any]]:
    """Check the tables in an ephemeral context, which writes nothing and uses no network.

    Args:
        tables: "persons" and "images", see `components.datasets.validate_columns`.
        splits: names that the tables may contain.
        reader: of the data set's form, which decides what boxes and optional columns must be.
    Returns:
        The checks of all tables in the order of the suites below, and Great Expectations' own result of each table.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("farpose")
    expectations = {
        "persons": _person_expectations(splits, params, skeleton, reader),
        "images": _image_expectations(tables["images"], splits, params),
    }
    checks, results = [], []
    for name, table in tables.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
        expected = expectations[name]
        wanted = {
            "result_format": "SUMMARY",
            "unexpected_index_column_names": ROW_NAMES[name],
            "partial_unexpected_count": EXAMPLES,
        }
        result = batch.validate(gx.ExpectationSuite(name=name, expectations=expected), result_format=wanted)
        found: list[Any] = [item.to_json_dict() for item in result.results]  # not in the order of the expectations
        by_words = {item["expectation_config"]["description"]: item for item in found}
        checks += [_check_of(name, by_words[expectation.description], len(table)) for expectation in expected]
        results.append(result)
    return checks, results


def _person_expectations(splits: list[str], params: ValidationParams, skeleton: Skeleton, reader: Reader) -> list[Any]:
    import great_expectations.expectations as gxe

    mostly = 1 - params.outlying_share
    rounding, margin = params.rounding_px, params.keypoint_margin
    texts = [name for name, kind in SCALAR_COLUMNS.items() if kind == "str"]
    between = gxe.ExpectColumnValuesToBeBetween
    uncounted = f", not counting {' and '.join(skeleton.uncounted)}" if skeleton.uncounted else ""
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, description="There are persons"),
        gxe.ExpectColumnValuesToBeUnique(column="annotation_id", description="Annotation ids are unique"),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=splits, description=f"Splits of persons are {' or '.join(splits)}"),
        gxe.ExpectColumnValuesToBeInSet(
            column="image_entry", value_set=["agrees"], description="Persons and images tables agree about path, size and split"
        ),
        between(column="nonfinite_numbers", min_value=0, max_value=0, description="All coordinates, sizes and areas are finite"),
        between(column="unknown_flags", min_value=0, max_value=0, description="Visibility flags are 0, 1 or 2"),
        between(
            column="num_keypoints_error", min_value=0, max_value=0, description=f"num_keypoints is the number of labelled joints{uncounted}"
        ),
        between(column="box_shorter_side_px", min_value=0, strict_min=True, description="Boxes have an area"),
        between(column="smaller_area_px2", min_value=0, strict_min=True, description="Labelled persons have a positive area"),
        _box_expectation(reader, rounding, mostly),
        between(
            column="joint_beyond_image_px",
            max_value=rounding,
            mostly=mostly,
            description=f"Labelled joints lie inside their images (to {rounding:g} px)",
        ),
        between(
            column="joint_beyond_box",
            max_value=margin,
            mostly=mostly,
            description=f"Labelled joints lie near their boxes (to {margin:g} of the longer side)",
        ),
        *(
            gxe.ExpectColumnValuesToBeOfType(column=name, type_=kind, description=f"{name} is of type {kind}")
            for name, kind in SCALAR_COLUMNS.items()
        ),
        *(gxe.ExpectColumnValuesToNotBeNull(column=name, description=f"{name} is always given") for name in (*texts, *reader.gives)),
        *(
            gxe.ExpectColumnValuesToBeNull(column=name, description=f"{name} is never given")
            for name in OPTIONAL_COLUMNS
            if name not in (*reader.gives, *reader.may_give)
        ),
        *_form_expectations(skeleton, reader),
    ]


def _box_expectation(reader: Reader, rounding: float, mostly: float) -> Any:
    import great_expectations.expectations as gxe

    between = gxe.ExpectColumnValuesToBeBetween
    if reader.boxes == "annotated":
        return between(column="box_beyond_image_px", max_value=rounding, description=f"Boxes lie inside their images (to {rounding:g} px)")
    words = f"Centres of boxes lie inside their images (to {rounding:g} px)"
    return between(column="box_center_beyond_image_px", max_value=rounding, mostly=mostly, description=words)


def _form_expectations(skeleton: Skeleton, reader: Reader) -> list[Any]:
    """What only some forms have: crowd indices, head sizes, hands that are labelled beside the wrists."""
    import great_expectations.expectations as gxe

    between, given, found = gxe.ExpectColumnValuesToBeBetween, (*reader.gives, *reader.may_give), []
    if "crowd_index" in given:
        found.append(between(column="crowd_index", min_value=0, description="Crowd indices are 0 or more"))
        found.append(between(column="crowd_index_spread", max_value=0, description="Persons of an image have one crowd index"))
    if "head_size" in given:
        found.append(between(column="head_size", min_value=0, strict_min=True, description="Head sizes are positive"))
    if set(HANDS) <= set(skeleton.keypoint_names):
        words = f"Hands begin at the wrist of their side (to {HAND_REACH:g} of the box's longer side)"
        found.append(between(column="hand_off_wrist", max_value=HAND_REACH, mostly=1 - HANDS_ELSEWHERE, description=words))
    return found


def _image_expectations(table: pd.DataFrame, splits: list[str], params: ValidationParams) -> list[Any]:
    import great_expectations.expectations as gxe

    expectations: list[Any] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, description="There are images"),
        gxe.ExpectColumnValuesToBeUnique(column="image_id", description="Image ids are unique"),
        gxe.ExpectColumnValuesToBeUnique(column="image_path", description="Image paths are unique"),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=splits, description=f"Splits of images are {' or '.join(splits)}"),
        gxe.ExpectColumnValuesToBeNull(column="same_id_elsewhere", description="No image is in two splits, by its id"),
    ]
    if "file" in table:
        expectations += [
            gxe.ExpectColumnValuesToBeInSet(column="file", value_set=[WHOLE], description="Image files are there and decode in full"),
            gxe.ExpectColumnValuesToBeBetween(
                column="size_error_px", min_value=0, max_value=0, description="Images are as large as annotated"
            ),
            gxe.ExpectColumnValuesToBeNull(column="same_content_elsewhere", description="No image is in two splits, by its bytes"),
            gxe.ExpectColumnValuesToBeNull(  # published data sets contain a few photographs twice, which a share of the images may separate
                column="same_content_in_training",
                mostly=1 - params.outlying_share,
                description=f"No image is in {TRAIN} and {DEV}, by its bytes",
            ),
        ]
    return expectations


def _check_of(table: str, item: dict[str, Any], rows: int) -> Check:
    config, found = item["expectation_config"], item["result"]
    if item["exception_info"].get("raised_exception"):
        raise RuntimeError(f"check {config['description']!r} on {table} could not run: {item['exception_info']}")
    column = config["kwargs"].get("column")
    unexpected = found.get("unexpected_count", 0 if item["success"] else rows)
    return Check(
        table=table,
        check=config["description"],
        expectation=config["type"],
        column=column,
        success=item["success"],
        checked=rows if config["type"] == "expect_column_values_to_be_null" else rows - found.get("missing_count", 0),
        unexpected=unexpected,
        allowed_share=round(1 - config["kwargs"].get("mostly", 1.0), 9),
        examples=tuple(_example(row, column, table) for row in found.get("partial_unexpected_index_list", [])),
    )


def _example(row: dict[str, Any], column: str | None, table: str) -> dict[str, Any]:
    value = row.get(str(column))
    if isinstance(value, float):
        value = round(value, 6) if math.isfinite(value) else str(value)
    return {**{name: row[name] for name in ROW_NAMES[table]}, "value": value}
