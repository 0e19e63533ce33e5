"""Which categories of a COCO file are persons, and whether their joints are the skeleton's, however they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.base.errors import FarposeError
from components.datasets.records import Records
from components.pose.people import compact, is_people
from components.pose.skeleton import Skeleton

PERSON = "person"  # the default of `person_category`, which is taken for what it plainly means


def person_ids(
    categories: Records,
    wanted: str | int | tuple[int, ...],
    skeleton: Skeleton,
    names: Mapping[str, str],
    file_joints: Sequence[str] | None,
) -> list[int]:
    """The ids of the persons' categories.

    An entry that names no category means the category "person". Of several of that name those with joints count; where there is none, a
    category that is named alike ("Person", "people") and has joints, or else every one that has the skeleton's joints.

    Args:
        wanted: the entry's `person_category`.
        names: joints that the form writes otherwise: the skeleton's name → the files'.
        file_joints: the entry's `file_joints`.
    Raises:
        FarposeError: no category, or more than one, is meant, or its joints are not the skeleton's; names what the file has.
    """
    ids, titles = categories.column("id", int), categories.column("name", str)
    listed = ", ".join(f"{title!r} (id {number})" for number, title in zip(ids, titles, strict=True)) or "none"
    fix = f"set the data set's `person_category` in params/data.yaml; the file's categories: {listed}"
    fits = [_difference(entry.get("keypoints"), skeleton, names, file_joints) is None for entry in categories]
    if isinstance(wanted, str):
        chosen = [i for i, title in enumerate(titles) if title == wanted]
        if wanted == PERSON:
            chosen = _plainly_persons(titles, fits, chosen)
            if len(chosen) > 1 and not any(fits[i] for i in chosen):
                chosen = chosen[:1]  # its joints are named in the error
        elif len(chosen) != 1:
            raise FarposeError(f"{len(chosen)} categories are named {wanted!r}, expected one", where=categories.file, fix=fix)
        if not chosen:
            raise FarposeError(f"0 categories are named {wanted!r}, expected one", where=categories.file, fix=fix)
    else:
        numbers = [wanted] if isinstance(wanted, int) else list(wanted)
        for number in numbers:
            if ids.count(number) != 1:
                raise FarposeError(f"{ids.count(number)} categories have the id {number}, expected one", where=categories.file, fix=fix)
        chosen = [ids.index(number) for number in numbers]
    for i in chosen:
        check_joints(categories, i, skeleton, names, file_joints)
        if ids.count(ids[i]) != 1:
            raise FarposeError(f"{ids.count(ids[i])} categories have the id {ids[i]}, expected one", where=categories.file, fix=fix)
    return [ids[i] for i in chosen]


def _plainly_persons(titles: list[str], fits: list[bool], exact: list[int]) -> list[int]:
    """Rows of the categories that "person" plainly means."""
    alike = exact or [i for i, title in enumerate(titles) if is_people(title)]
    jointed = [i for i in alike if fits[i]]
    return jointed or [i for i, fit in enumerate(fits) if fit] or alike


def check_joints(categories: Records, index: int, skeleton: Skeleton, names: Mapping[str, str], file_joints: Sequence[str] | None) -> None:
    """Refuse a category whose joints are not the skeleton's in its order. Case, spaces, hyphens and the way to write a side do not count.

    Raises:
        FarposeError: names the first joint that differs, and the way out.
    """
    listed = categories.items[index].get("keypoints")
    difference = _difference(listed, skeleton, names, file_joints)
    if difference is None:
        return
    expected = list(file_joints) if file_joints else [names.get(name, name) for name in skeleton.keypoint_names]
    problem = f"the category's keypoints are {listed}, expected those of {skeleton.name}: {expected}{difference}"
    fix = "name the data set whose joints these are as the source, or correct its `skeleton` in params/data.yaml"
    if not listed:
        known = f"if its joints are those of {skeleton.name} in this order"
        fix = f"write the names into the file, or set the data set's `file_joints: []` in params/data.yaml {known}; or {fix}"
    elif isinstance(listed, list) and len(listed) == len(skeleton):
        fix = f"set the data set's `file_joints: {listed}` in params/data.yaml if these are the same joints by other names; or {fix}"
    raise FarposeError(problem, where=categories.file, fix=fix)


def _difference(listed: object, skeleton: Skeleton, names: Mapping[str, str], file_joints: Sequence[str] | None) -> str | None:
    """What differs between a category's joints and the skeleton's, None if nothing does."""
    if file_joints is not None and not file_joints and not listed:
        return None
    own = skeleton.keypoint_names
    if not isinstance(listed, list) or len(listed) != len(own) or not all(isinstance(name, str) for name in listed):
        return ""
    for k, name in enumerate(listed):
        expected = file_joints[k] if file_joints else names.get(own[k], own[k])
        if not (compact(name) in spellings(expected) or (not file_joints and compact(name) in spellings(own[k]))):
            return f"; joint {k + 1} is {name!r}, expected {expected!r}"
    return None


def spellings(name: str) -> set[str]:
    """Ways to write a joint's name, in small letters and digits alone: `left_hip` as lefthip, lhip, hipleft, hipl."""
    for side, short in (("left", ("l", "lt")), ("right", ("r", "rt"))):
        if name.startswith(f"{side}_"):
            base = compact(name.removeprefix(f"{side}_"))
            return {place for word in (side, *short) for place in (word + base, base + word)}
    return {compact(name)}
