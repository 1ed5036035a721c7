"""Draw `docs/geodesic.svg`: a plane in space goes along the geodesic of Gr(3, 2) to another plane."""

from pathlib import Path

import torch

from grassmann_ssl.manifolds import Grassmann, principal_angles

FRAMES, SECONDS, SIZE = 48, 6, 360
VIEW = torch.tensor([[0.86, -0.5, 0.0], [0.22, 0.38, -0.9]])  # from space to the page, without perspective
STYLE = """
    svg { --ink: #1f2328; --plane: #0969da; --target: #bf3989 }
    @media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --plane: #58a6ff; --target: #f778ba } }
    text { fill: var(--ink); font: 15px sans-serif }
    .ball, .bar { stroke: var(--ink); opacity: .3; fill: none }
    .start, .target { fill: none; stroke-dasharray: 5 4 }
    .start { stroke: var(--plane) }
    .target { stroke: var(--target); stroke-width: 2 }
    .target-word { fill: var(--target) }
    .disc { fill: var(--plane); fill-opacity: .3; stroke: var(--plane); stroke-width: 2 }
    .vector { stroke: var(--plane); stroke-width: 3; stroke-linecap: round }
    .left { fill: var(--plane) }
    .frame { visibility: hidden; animation: show SECONDSs steps(1) infinite }
    @keyframes show { 0% { visibility: visible } SHARE% { visibility: hidden } 100% { visibility: hidden } }
    @keyframes rest { 0% { visibility: visible } REST% { visibility: hidden } 100% { visibility: hidden } }
    .frame.last { animation-name: rest }
    @media (prefers-reduced-motion: reduce) { .frame { animation: none } .frame.still { visibility: visible } }
"""


def on_page(points: torch.Tensor) -> str:
    """Points (k, 3) of space as coordinates of the page."""
    flat = SIZE / 2 + 0.42 * SIZE * points @ VIEW.T
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in flat.tolist())


def disc(x: torch.Tensor, kind: str) -> str:
    """The unit circle of the plane with basis x (3, 2)."""
    turn = torch.linspace(0, 2 * torch.pi, 49)[:-1]
    return f'<polygon class="{kind}" points="{on_page(torch.stack((turn.cos(), turn.sin()), 1) @ x.T)}"/>'


def frame(x: torch.Tensor, y: torch.Tensor, whole: float, k: int, still: int) -> str:
    """The plane x on its way to y, its basis, and the angle that is left."""
    angle = float(principal_angles(x, y).max())
    vectors = "".join(
        f'<polyline class="vector" points="{on_page(torch.stack((torch.zeros(3), column)))}"/>' for column in x.T
    )
    kind = "frame" + (" last" if k == FRAMES - 1 else "") + (" still" if k == still else "")
    delay = 0.8 * SECONDS * k / FRAMES
    return (
        f'<g class="{kind}" style="animation-delay:{delay - SECONDS:.3f}s">{disc(x, "disc")}{vectors}'
        f'<rect class="left" x="20" y="{SIZE + 34}" width="{(SIZE - 40) * angle / whole:.1f}" height="8"/>'
        f'<text x="20" y="{SIZE + 24}">angle to the target: {torch.rad2deg(torch.tensor(angle)):.0f}°</text></g>'
    )


def drawn() -> str:
    """The picture as a text of SVG."""
    manifold = Grassmann()
    x = torch.linalg.qr(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.15]]))[0]
    y = torch.linalg.qr(torch.tensor([[0.25, 0.2], [0.1, 1.0], [1.0, 0.1]]))[0]
    u, whole = manifold.logmap(x, y), float(principal_angles(x, y).max())
    times = torch.linspace(0, 1, FRAMES)
    frames = [frame(manifold.expmap(x, t * u), y, whole, k, FRAMES // 2) for k, t in enumerate(times)]
    share = 100 * 0.8 / FRAMES
    style = STYLE.replace("SECONDS", str(SECONDS)).replace("SHARE", f"{share:.3f}").replace("REST", f"{20 + share:.3f}")
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE + 60}" width="{SIZE}" height="{SIZE + 60}" role="img">',
        "<title>A plane in space turns to another plane at constant speed; the angle between them falls to 0</title>",
        f"<style>{style}</style>",
        f'<circle class="ball" cx="{SIZE / 2}" cy="{SIZE / 2}" r="{0.42 * SIZE}"/>',
        disc(x, "start"), disc(y, "target"), f'<text class="target-word" x="{SIZE - 70}" y="30">target</text>',
        f'<rect class="bar" x="20" y="{SIZE + 34}" width="{SIZE - 40}" height="8"/>', *frames, "</svg>", "",
    ])  # fmt: skip


if __name__ == "__main__":
    (Path(__file__).parent / "geodesic.svg").write_text(drawn())
