"""Levels of the PCA error, with their ranks where there is room."""

import functools
from collections.abc import Iterable
from typing import Any, TypeAlias

from odeae.plotting.legends import is_hit, occupied
from odeae.plotting.style import Axes

Rung: TypeAlias = tuple[Any, int, Any]  # a level, its rank, its colour or None


def draw_levels(ax: Axes, rungs: Iterable[Rung]) -> None:
    """Draw PCA levels as thin lines, with their ranks at the right edge where there is room.

    Levels with a colour are named first, then the others from the lowest.
    """
    low, high = ax.get_ylim()
    for level, rank, colour in sorted(rungs, key=lambda rung: (rung[2] is None, rung[0])):
        if not low <= level <= high:
            continue
        style = {"lw": 0.7 if colour is None else 0.9, "ls": (0, (4, 3)), "zorder": 1}
        ax.axhline(level, color=colour or "0.55", **style)
        ax.add_artist(_level_name()(f"PCA {rank}", level, ax, colour or "0.35"))


@functools.cache
def _level_name() -> Any:
    """Return the class of the names at the right edge of the axes; matplotlib is imported late."""
    from matplotlib.text import Annotation

    class LevelName(Annotation):
        """A name that finds its place when it is drawn: layout and size aren't known before.

        All names of an Axes stand beside it, or inside if there is no room beside. A name that
        would cover another name or a curve is left out: see `shown`.
        """

        def __init__(self, text, level, ax, colour):
            super().__init__(
                text,
                (1.0, level),
                (4, 0),
                xycoords=ax.get_yaxis_transform(),
                textcoords="offset points",
                fontsize=7.5,
                color=colour,
                annotation_clip=False,
                clip_on=False,
            )
            self.shown = True
            self._beside()

        def _beside(self):
            self.set(ha="left", va="center_baseline", position=(4, 0))

        def _within(self):
            self.set(ha="right", va="bottom", position=(-3, 1))

        def draw(self, renderer):
            ax: Any = self.axes
            names = [text for text in ax.texts if isinstance(text, LevelName)]
            if self is names[0]:
                for name in names:
                    name._beside()
                if any(self._is_cut(name.get_window_extent(renderer)) for name in names):
                    for name in names:
                        name._within()
            box = self.get_window_extent(renderer).padded(1.0)
            before = names[: names.index(self)]
            self.shown = not any(
                name.shown and box.overlaps(name.get_window_extent(renderer)) for name in before
            ) and not is_hit(box, *occupied(ax))
            if self.shown:
                super().draw(renderer)

        def _is_cut(self, box):
            """Return whether this lies beyond the figure, or on other axes with their labels."""
            own: Any = self.axes
            frame = own.figure.bbox
            if box.x1 > frame.x1:
                return True
            others = (ax for ax in own.figure.axes if ax is not own)
            return any(
                box.overlaps(ax.get_tightbbox())
                for ax in others
                if ax.bbox.x0 >= own.bbox.x1 and ax.bbox.y0 < box.y1 and box.y0 < ax.bbox.y1
            )

    return LevelName
