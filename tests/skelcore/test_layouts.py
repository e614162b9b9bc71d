from __future__ import annotations

import numpy as np
import pytest

from skelcore import layouts
from skelcore.errors import InputError
from skelcore.layouts import LAYOUTS, Layout

ALL = [pytest.param(layout, id=name) for name, layout in LAYOUTS.items()]
JOINTS = {"coco17": 17, "ntu25": 25, "openpose18": 18, "kinect20": 20, "penn13": 13, "jhmdb15": 15, "mediapipe33": 33,
          "hand21": 21}


def pieces(layout: Layout, pairs: tuple[tuple[int, int], ...]) -> list[set[int]]:
    groups = [{joint} for joint in range(len(layout))]
    for a, b in pairs:
        touched = [group for group in groups if group & {a, b}]
        groups = [group for group in groups if not group & {a, b}] + [set.union(*touched)]
    return groups


def test_all_layouts_are_there_under_their_own_names() -> None:
    assert {name: len(layout) for name, layout in LAYOUTS.items()} == JOINTS
    assert all(layout.name == name for name, layout in LAYOUTS.items())


@pytest.mark.parametrize("layout", ALL)
def test_mirror_is_an_involution_that_swaps_sides(layout: Layout) -> None:
    mirror = layout.mirror
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(layout)))
    for joint, other in zip(layout.joints, mirror, strict=True):
        if joint.startswith("left_"):
            assert layout.joints[other] == "right_" + joint.removeprefix("left_")
        elif not joint.startswith("right_"):
            assert layout.joints[other] == joint


@pytest.mark.parametrize("layout", ALL)
def test_graph_and_bones_are_mirror_symmetric(layout: Layout) -> None:
    mirror = layout.mirror
    for pairs in (layout.edges, layout.bones):
        swapped = {(int(mirror[a]), int(mirror[b])) for a, b in pairs}
        assert swapped == set(pairs)


@pytest.mark.parametrize("layout", ALL)
def test_bones_give_every_joint_at_most_one_parent_and_no_cycle(layout: Layout) -> None:
    for pairs in (layout.bones, layout.edges):
        assert len(set(pairs)) == len(pairs) and all(a != b for a, b in pairs)
    children = [joint for joint, _ in layout.bones]
    assert len(set(children)) == len(children)
    parent = dict(layout.bones)
    for joint in range(len(layout)):
        path = [joint]
        while path[-1] in parent:
            path.append(parent[path[-1]])
            assert len(set(path)) == len(path)


@pytest.mark.parametrize("layout", ALL)
def test_graph_is_a_tree_around_the_centre(layout: Layout) -> None:
    assert len(pieces(layout, layout.edges)) == 1
    assert len(layout.edges) == len(layout) - 1


@pytest.mark.parametrize("layout", ALL)
def test_edges_point_to_the_centre(layout: Layout) -> None:
    """Following edges inwards from any joint ends at the centre, as the graphs' inward and outward parts need."""
    inwards = dict(layout.edges)
    for joint in range(len(layout)):
        for _ in range(len(layout)):
            joint = inwards.get(joint, joint)
        assert joint == layout.centre


def test_two_graphs_of_the_kinect_differ_in_the_hands_only() -> None:
    layout = LAYOUTS["ntu25"]
    differing = {frozenset(pair) for pair in layout.edges} ^ {frozenset(pair) for pair in layout.bones}
    names = {frozenset(layout.joints[joint] for joint in pair) for pair in differing}
    assert names == {frozenset(pair) for side in ("left", "right") for pair in (
        (f"{side}_hand_tip", f"{side}_hand"), (f"{side}_hand_tip", f"{side}_thumb"))}


@pytest.mark.parametrize("target", ALL)
@pytest.mark.parametrize("source", ALL)
def test_maps_average_and_keep_named_joints(source: Layout, target: Layout) -> None:
    weights = source.matrix_to(target)
    assert weights.shape == (len(target), len(source)) and weights.dtype == np.float32
    sums = weights.sum(1)
    np.testing.assert_allclose(sums, np.round(sums), atol=1e-6)
    assert set(np.round(sums)) <= {0, 1} and (weights >= 0).all()
    for row, joint in enumerate(target.joints):
        if joint in source.joints:
            expected = np.zeros(len(source))
            expected[source.joints.index(joint)] = 1
            np.testing.assert_array_equal(weights[row], expected)


@pytest.mark.parametrize("layout", ALL)
def test_map_to_itself_is_the_identity(layout: Layout) -> None:
    np.testing.assert_array_equal(layout.matrix_to(layout), np.eye(len(layout)))


@pytest.mark.parametrize("source", [case for case in ALL if case.id != "hand21"])
@pytest.mark.parametrize("target", [case for case in ALL if case.id != "hand21"])
def test_maps_do_not_mix_sides_and_commute_with_the_mirror(source: Layout, target: Layout) -> None:
    weights = source.matrix_to(target)
    np.testing.assert_allclose(weights[target.mirror][:, source.mirror], weights, atol=1e-6)
    for row, column in zip(*np.nonzero(weights), strict=True):
        sides = {joint.split("_")[0] for joint in (target.joints[row], source.joints[column])}
        assert sides.isdisjoint({"left"}) or "right" not in sides


@pytest.mark.parametrize("layout", [case for case in ALL if case.id != "hand21"])
def test_every_body_layout_gives_shoulders_to_ankles(layout: Layout) -> None:
    """All but the face of COCO-17 comes out of any body layout, so that encoders can be shared."""
    given = layout.matrix_to(LAYOUTS["coco17"]).sum(1) > 0
    body = [not joint.endswith(("eye", "ear")) for joint in LAYOUTS["coco17"].joints]
    assert given[body].all()


def test_stand_ins_are_means() -> None:
    coco, ntu = LAYOUTS["coco17"], LAYOUTS["ntu25"]
    weights = dict(zip(ntu.joints, coco.matrix_to(ntu), strict=True))
    for joint, parts in (("pelvis", ("left_hip", "right_hip")), ("head", ("left_ear", "right_ear")),
                         ("neck", ("left_shoulder", "right_shoulder")), ("left_foot", ("left_ankle",)),
                         ("spine", ("left_shoulder", "right_shoulder", "left_hip", "right_hip"))):
        expected = np.zeros(17)
        expected[coco.index(*parts)] = 1 / len(parts)
        np.testing.assert_allclose(weights[joint], expected)
    assert weights["left_thumb"].sum() == 0


def test_names_are_checked() -> None:
    with pytest.raises(InputError, match="did you mean coco17"):
        layouts.get("coco_17")
    with pytest.raises(InputError, match="known: coco17, ntu25"):
        layouts.get("qqqqqq")
    with pytest.raises(InputError, match="penn13 has no joint 'left_ear'"):
        LAYOUTS["penn13"].index("head", "left_ear")
    own = Layout("own", ("a", "b"), ((1, 0),), 0)
    assert layouts.get(own) is own and own.bones == own.edges


@pytest.mark.parametrize(("joints", "edges", "centre", "bones"), [
    (("a", "b"), ((1, 2),), 0, ()), (("a", "b"), ((1, 0),), 2, ()), (("a", "b"), ((-1, 0),), 0, ()),
    (("a", "b"), ((1, 0),), 0, ((5, 0),)), (("a", "a"), ((1, 0),), 0, ())])
def test_impossible_layouts_are_refused(joints, edges, centre, bones) -> None:
    with pytest.raises(InputError, match="layout own"):
        Layout("own", joints, edges, centre, bones)
