"""The picture of an incident: nothing is lost, nothing overlaps, and no line seems to begin where it does not."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.etree import ElementTree

from serving.console.graph import draw, listed
from serving.console.render import HERE
from serving.incidents.graph import Edge, Graph, Node

NOW = datetime(2026, 11, 23, 14, tzinfo=UTC)


def node(ident: str, kind: str, role: str, name: str = "", actions: int = 1) -> Node:
    return Node.model_validate(
        {
            "id": ident,
            "kind": kind,
            "name": name or ident.partition(":")[2],
            "role": role,
            "first_seen": NOW,
            "last_seen": NOW,
            "actions": actions,
        }
    )


def edge(source: str, target: str, kind: str = "read", confidence: str = "certain", count: int = 1) -> Edge:
    return Edge.model_validate(
        {
            "source": source,
            "target": target,
            "kind": kind,
            "count": count,
            "first_seen": NOW,
            "last_seen": NOW,
            "confidence": confidence,
            "why": "the log says so",
        }
    )


def story(objects: int = 3) -> Graph:
    """An address, a person, the account that she went on to, and what both touched."""
    nodes = [
        node("origin:203.0.113.7", "origin", "origin"),
        node("origin:10.0.0.1", "origin", "origin"),
        node("principal:alice@corp", "principal", "source"),
        node("principal:system:serviceaccount:ci:deployer", "principal", "suspect"),
        node("principal:system:serviceaccount:web:*", "principal", "reached"),
    ]
    edges = [
        edge("origin:203.0.113.7", "principal:alice@corp", "used"),
        edge("origin:10.0.0.1", "principal:system:serviceaccount:ci:deployer", "used"),
        edge("principal:alice@corp", "principal:system:serviceaccount:ci:deployer", "runs-as", "likely"),
        edge("principal:alice@corp", "principal:system:serviceaccount:web:*", "token-read", "possible"),
    ]
    for number in range(objects):
        name = f"object:secrets team-{number % 40}/s{number}"
        nodes.append(node(name, "object", "touched"))
        who = "principal:alice@corp" if number % 2 else "principal:system:serviceaccount:ci:deployer"
        edges.append(edge(who, name))
    nodes.append(node("consequence:x:events", "consequence", "consequence", "events", 9))
    edges.append(edge("object:secrets team-0/s0", "consequence:x:events", "create", count=9))
    return Graph(nodes=nodes, edges=edges)


def parsed(graph: Graph) -> ElementTree.Element:
    return ElementTree.fromstring(str(draw(graph)))


def boxes(picture: ElementTree.Element) -> dict[str, tuple[float, float, float, float]]:
    """Whole names of boxes -> left, top, right, bottom."""
    found = {}
    for group in picture.iter("g"):
        rect = group.find("rect")
        if rect is not None:
            x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
            found[str(group.findtext("title"))] = (x, y, x + w, y + h)
    return found


def test_everything_of_a_small_incident_is_drawn_from_left_to_right() -> None:
    picture = parsed(story())
    placed = boxes(picture)
    assert len(placed) == len(story().nodes)
    left = {name: box[0] for name, box in placed.items()}
    order = [
        "203.0.113.7",
        "alice@corp",
        "system:serviceaccount:ci:deployer",
        "secrets team-0/s0",
        "events",
    ]
    assert [left[name] for name in order] == sorted({left[name] for name in order})
    assert left["system:serviceaccount:web:*"] == left["secrets team-0/s0"], (
        "who was only reached leads nowhere"
    )
    assert len([group for group in picture.iter("g") if "line" in group.attrib["class"].split()]) == len(
        story().edges
    )


def test_no_box_lies_on_another_and_all_are_inside() -> None:
    for objects in (0, 1, 9, 30, 400):
        picture = parsed(story(objects))
        placed = list(boxes(picture).values())
        width, height = (float(part) for part in picture.attrib["viewBox"].split()[2:])
        for at, (x, y, right, bottom) in enumerate(placed):
            assert 0 <= x < right <= width
            assert 0 <= y < bottom <= height
            for other in placed[at + 1 :]:
                apart = right <= other[0] or other[2] <= x or bottom <= other[1] or other[3] <= y
                assert apart, (placed[at], other)


def test_no_line_passes_under_a_box_that_is_none_of_its_ends() -> None:
    picture = parsed(story(6))
    placed = boxes(picture)
    for group in picture.iter("g"):
        path = group.find("path")
        if path is None or "line" not in group.attrib["class"].split():
            continue
        for level in re.finditer(r"([\d.]+) ([\d.]+)H([\d.]+)", path.attrib["d"]):
            x, y, until = (float(part) for part in level.groups())
            for name, (left, top, right, bottom) in placed.items():
                crosses = left < until and right > x and top < y < bottom
                assert not crosses, f"{group.findtext('title')} passes under {name}"


def test_an_incident_of_hundreds_of_objects_stays_readable_and_its_list_is_whole() -> None:
    graph = story(400)
    picture = parsed(graph)
    assert len(boxes(picture)) < 30
    names = " ".join(text.text or "" for text in picture.iter("text") if text.attrib["class"] == "name")
    counts = re.findall(r"\(([\d,]+)\)|([\d,]+) others", names)
    whole = sum(int((one or other).replace(",", "")) for one, other in counts)
    single = sum(1 for name in boxes(picture) if re.fullmatch(r"secrets team-\d+/s\d+", name))
    assert whole + single == 400
    assert len(listed(graph)) == len(graph.edges)


def test_the_picture_is_described_and_names_out_of_a_log_stay_text() -> None:
    graph = story(1)
    graph.nodes[2].name = "<script>alert(1)</script>\u202e"
    picture = draw(graph)
    assert "<script>" not in picture
    assert "\u202e" not in picture
    root = ElementTree.fromstring(str(picture))
    assert root.attrib["role"] == "group", "a picture would hide its links"
    ids = {element.attrib.get("id") for element in root.iter()}
    assert set(root.attrib["aria-labelledby"].split()) <= ids
    assert "From 203.0.113.7, 10.0.0.1; as <script>" in str(root.findtext("desc"))
    assert not re.search(r"\sstyle=", picture)


def test_every_box_leads_on_and_names_end_at_their_box() -> None:
    root = parsed(story(60))
    links = {str(link.findtext("g/title")): link.attrib["href"] for link in root.iter("a")}
    assert links["alice@corp"] == "/console/principals/alice@corp"
    assert links["203.0.113.7"] == "/console/search?ask=events&address=203.0.113.7&since=2026-11-16"
    assert "system:serviceaccount:web:*" not in links, "all accounts of a namespace have no page"
    grouped = next(url for name, url in links.items() if name.startswith("secrets team-"))
    assert grouped.startswith("/console/search?ask=events&resource=secrets")
    for group in root.iter("g"):
        rect, inner = group.find("rect"), group.find("svg")
        if rect is not None:
            assert inner is not None, "what is wider than a font was thought to be is cut off"
            right = float(inner.attrib["x"]) + float(inner.attrib["width"])
            assert right <= float(rect.attrib["x"]) + float(rect.attrib["width"])


def test_labels_of_lines_do_not_cover_one_another_and_no_line_runs_through_them() -> None:
    graph = story(0)
    for number in range(4):
        name = f"principal:system:serviceaccount:ci:job-{number}"
        graph.nodes.append(node(name, "principal", "suspect"))
        graph.edges.append(edge("principal:alice@corp", name, "token-read", "likely"))
    root = parsed(graph)
    labels = [one for one in root if one.tag == "text"]
    assert len(labels) == 6
    assert list(root)[-len(labels) :] == labels, "drawn after all lines and boxes"
    places = [(float(one.attrib["x"]), float(one.attrib["y"])) for one in labels]
    for at, (x, y) in enumerate(places):
        assert all(abs(x - other) >= 60 or abs(y - below) >= 12 for other, below in places[at + 1 :])


def test_labels_of_lines_stand_on_the_ground_of_the_picture() -> None:
    """A label is no part of its line's group: the rule that gives it a border of the ground's colour must hold for it there."""
    picture = parsed(story(0))
    (kind,) = {one.attrib["class"] for one in picture if one.tag == "text"}
    rule = re.search(rf"^\.graph text\.{kind} {{(.*)}}$", (HERE / "static" / "console.css").read_text(), re.M)
    assert rule is not None
    assert "paint-order: stroke; stroke: var(--sunk)" in rule[1]


def test_nothing_to_draw_is_drawn_as_nothing() -> None:
    assert draw(Graph()) == ""
    assert boxes(parsed(Graph(nodes=[node("principal:alice", "principal", "source")]))).keys() == {"alice"}


def test_accounts_that_lead_to_one_another_in_a_circle_have_a_place_each() -> None:
    graph = story(2)
    graph.edges.append(
        edge("principal:system:serviceaccount:ci:deployer", "principal:alice@corp", "acted-as", "likely")
    )
    assert len(boxes(parsed(graph))) == len(graph.nodes)
