"""The picture of a topology as SVG: a line for each switch, nodes with their pods below it, routers at the left."""

import xml.etree.ElementTree as xml

from underpass_lab.lab import topology as topologies
from underpass_lab.lab.topology import Link, Node, Router, Subnet, Topology

PER_ROW = 10
PITCH, NODE_W, NODE_H = 148, 124, 50
POD_W, POD_H, POD_GAP, PODS_SHOWN = 108, 32, 8, 4
LANE, ROUTER_W, ROUTER_H = 204, 124, 36
MARGIN, TITLE, LEAD, DROP, TAIL, LEGEND = 24, 58, 34, 46, 30, 44
COLOURS = {
    topologies.UNDERPASS: "#dcecf3",
    topologies.KERNEL: "#fbe3c8",
    "router": "#e4e6e9",
    "pod": "#ffffff",
    "line": "#4a5560",
    "switch": "#1f6f8b",
    "bad": "#b3402a",
    "text": "#20262c",
    "soft": "#66717c",
}


def draw(topology: Topology, title: str) -> str:
    """The text of the SVG file."""
    return _Picture(topology, title).text()


class _Picture:
    def __init__(self, topology: Topology, title: str) -> None:
        self.topology = topology
        self.left = MARGIN + LANE * len(topology.routers)
        sizes = [sum(node.subnet is subnet for node in topology.nodes) for subnet in topology.subnets]
        columns = min(PER_ROW, max(3, *sizes))
        self.width = self.left + columns * PITCH + MARGIN
        self.root = xml.Element("svg", xmlns="http://www.w3.org/2000/svg")
        self.lines = xml.SubElement(self.root, "g")
        self.boxes = xml.SubElement(self.root, "g")
        self.buses: dict[Subnet, float] = {}
        self._text(MARGIN, 30, title, size=17, weight="bold")
        self._text(MARGIN, 48, self._about(), size=12, fill=COLOURS["soft"])
        self.y: float = TITLE
        for subnet in topology.subnets:
            self._subnet(subnet)
        for lane, router in enumerate(topology.routers):
            self._router(router, MARGIN + LANE * lane + ROUTER_W / 2)
        self._legend()
        self._finish()

    def text(self) -> str:
        xml.indent(self.root)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(self.root, encoding="unicode") + "\n"

    def _about(self) -> str:
        topology = self.topology
        word, mode = ("vxlan", topology.vxlan_mode) if topology.vxlan_mode != "Never" else ("ipip", topology.ipip_mode)
        mode = "direct, without encapsulation" if mode == "Never" else f"{word}_mode {mode}"
        return f"pods in {topology.pool}, {mode}; {len(topology.nodes)} nodes, {len(topology.pods())} pods"

    # --- the parts --------------------------------------------------------------------------------

    def _subnet(self, subnet: Subnet) -> None:
        nodes = [node for node in self.topology.nodes if node.subnet is subnet]
        rows = [nodes[at : at + PER_ROW] for at in range(0, len(nodes), PER_ROW)] or [[]]
        first = self.y + LEAD
        self._text(self.left + 8, first - 9, subnet.switch, weight="bold", fill=COLOURS["switch"])
        self._text(self.left + 8 + 8 * len(subnet.switch) + 10, first - 9, f"{subnet.network}   MTU {subnet.mtu}")
        for row in rows:
            bus = self.y + LEAD
            self._line(self.left, bus, self.left + max(len(row), 1) * PITCH, bus, COLOURS["switch"], 5)
            shown = 0
            for column, node in enumerate(row):
                x = self.left + column * PITCH + PITCH / 2
                self._node(node, x, bus)
                shown = max(shown, min(node.pods, PODS_SHOWN + 1))
            self.y = bus + DROP + NODE_H + shown * (POD_H + POD_GAP) + TAIL
        if len(rows) > 1:
            self._line(self.left, first, self.left, bus, COLOURS["switch"], 5)
        self.buses[subnet] = first

    def _node(self, node: Node, x: float, bus: float) -> None:
        top = bus + DROP
        self._link(x, bus, x, top, node.link, (x + 6, bus + 18))
        self._box(
            x,
            top,
            NODE_W,
            NODE_H,
            COLOURS[node.dataplane],
            (node.name, "bold"),
            (str(node.address), ""),
            (node.dataplane, "soft"),
        )
        y = top + NODE_H + POD_GAP
        pods = list(node.pod_addresses().items())
        if pods:
            bottom = y + POD_H * min(len(pods), PODS_SHOWN + 1)
            self._line(x, top + NODE_H, x, bottom, COLOURS["line"], 1.2)
        for name, address in pods[:PODS_SHOWN]:
            self._box(x, y, POD_W, POD_H, COLOURS["pod"], (name, ""), (str(address), "soft"), radius=14)
            y += POD_H + POD_GAP
        if len(pods) > PODS_SHOWN:
            more = pods[PODS_SHOWN:]
            words = more[0][0] if len(more) == 1 else f"{more[0][0]} …"
            self._box(x, y, POD_W, POD_H, COLOURS["pod"], (words, ""), (f"to {more[-1][1]}", "soft"), radius=14)

    def _router(self, router: Router, x: float) -> None:
        top = min(self.buses[subnet] for subnet, _ in router.ports) + 30
        for index, (subnet, address) in enumerate(router.ports):
            bus = self.buses[subnet]
            end = top if bus < top else top + ROUTER_H
            self._link(x, end, x, bus, router.link, (x + 6, bus + 18 if bus < top else bus - 24))
            self._link(x, bus, self.left, bus, router.link)
            self._text(x + 4, bus - 7, f"eth{index} {address}", size=10)
        self._box(
            x,
            top,
            ROUTER_W,
            ROUTER_H,
            COLOURS["router"],
            (router.name, "bold"),
            ("knows the pods" if router.knows_pods else "router", "soft"),
        )

    def _link(
        self, x1: float, y1: float, x2: float, y2: float, link: Link, label: tuple[float, float] | None = None
    ) -> None:
        self._line(x1, y1, x2, y2, COLOURS["bad" if link.loss else "line"], 1.6, dashed=bool(link.loss))
        if label is None:
            return
        label_x, label_y = label
        for words, colour in ((link.rate, "soft"), (f"{link.loss:g} % loss" if link.loss else None, "bad")):
            if words:
                self._text(label_x, label_y, words, size=10, fill=COLOURS[colour])
                label_y += 12

    def _legend(self) -> None:
        y, x = self.y + 20, MARGIN
        kinds = [("router", "router")] * bool(self.topology.routers)
        kinds += [
            (kind, f"node, {kind}")
            for kind in (topologies.UNDERPASS, topologies.KERNEL)
            if any(node.dataplane == kind for node in self.topology.nodes)
        ]
        for kind, words in (*kinds, ("pod", "pod")):
            xml.SubElement(
                self.boxes,
                "rect",
                x=f"{x}",
                y=f"{y - 10}",
                width="14",
                height="12",
                rx="2",
                fill=COLOURS[kind],
                stroke=COLOURS["line"],
            )
            self._text(x + 20, y, words, size=11)
            x += 40 + 7 * len(words)

    # --- the strokes ------------------------------------------------------------------------------

    def _line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float, dashed: bool = False
    ) -> None:
        places = dict(zip(("x1", "y1", "x2", "y2"), (f"{at:g}" for at in (x1, y1, x2, y2)), strict=True))
        line = xml.SubElement(self.lines, "line", places, stroke=colour)
        line.set("stroke-width", str(width))
        line.set("stroke-linecap", "round")
        if dashed:
            line.set("stroke-dasharray", "6 4")

    def _box(
        self, x: float, y: float, width: float, height: float, fill: str, *words: tuple[str, str], radius: int = 6
    ) -> None:
        """A box whose upper edge has its middle at (x, y), with lines of text in it."""
        xml.SubElement(
            self.boxes,
            "rect",
            x=f"{x - width / 2:g}",
            y=f"{y:g}",
            width=str(width),
            height=str(height),
            rx=str(radius),
            fill=fill,
            stroke=COLOURS["line"],
        )
        step = 13
        base = y + height / 2 - step * (len(words) - 1) / 2 + 4
        for index, (text, style) in enumerate(words):
            self._text(
                x,
                base + step * index,
                text,
                size=11,
                anchor="middle",
                weight="bold" if style == "bold" else "normal",
                fill=COLOURS["soft" if style == "soft" else "text"],
            )

    def _text(
        self,
        x: float,
        y: float,
        words: str,
        size: int = 12,
        weight: str = "normal",
        fill: str = COLOURS["text"],
        anchor: str = "start",
    ) -> None:
        text = xml.SubElement(self.boxes, "text", x=f"{x:g}", y=f"{y:g}", fill=fill)
        text.set("font-size", str(size))
        text.set("font-weight", weight)
        text.set("text-anchor", anchor)
        text.text = words

    def _finish(self) -> None:
        height = self.y + LEGEND
        self.root.set("viewBox", f"0 0 {self.width:g} {height:g}")
        self.root.set("width", f"{self.width:g}")
        self.root.set("height", f"{height:g}")
        self.root.set("font-family", "DejaVu Sans, Verdana, Helvetica, sans-serif")
        ground = xml.Element("rect", width="100%", height="100%", fill="#ffffff")
        self.root.insert(0, ground)
