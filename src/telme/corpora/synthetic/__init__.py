"""Made-up corpora of real media files, laid out as the real ones are, so that everything can be tried without them.

Emotions are drawn first; then words, voice and face show them with different strengths (`dialogue.py`).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

from telme.corpora.meld import CLIP_FOLDERS
from telme.corpora.synthetic import iemocap, meld
from telme.corpora.synthetic.iemocap_defects import plant_in_iemocap
from telme.corpora.synthetic.meld_defects import plant_in_meld
from telme.corpora.synthetic.planted import write_planted
from telme.corpora.synthetic.recording import Clip, Scene, write_stub
from telme.errors import TelMEError
from telme.files import write_folder
from telme.progress import track

__all__ = ["write_synthetic"]

FEWEST_DIALOGUES = {"meld": len(CLIP_FOLDERS), "iemocap": iemocap.SESSIONS}  # one for each split, or session


def write_synthetic(
    out: str | Path,
    *,
    corpus: Literal["meld", "iemocap"] = "meld",
    dialogues: int = 36,
    seed: int = 0,
    defects: bool = False,
    workers: int | None = None,
) -> None:
    """Writes a made-up corpus; the same arguments write the same bytes, whatever `workers` is.

    Args:
        out: Folder for it; new or empty. It is there once all of it is written.
        corpus: Whose layout and emotions it has.
        dialogues: How many dialogues, of 4 to 10 turns each.
        seed: Of all that is random.
        defects: Plant the defects that the real corpus is known for, listed in `planted.json`.
        workers: Processes that write media, by default one a core. With several, a script that calls this needs
            `if __name__ == "__main__":`, as always with spawned processes.

    Raises:
        TelMEError: The folder is not empty, or there are too few dialogues.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TelMEError(f"{out} is there already; name a new or an empty folder")
    if dialogues < FEWEST_DIALOGUES[corpus]:
        raise TelMEError(f"{dialogues} dialogues; a made-up {corpus} needs at least {FEWEST_DIALOGUES[corpus]}")
    plan = _plan_meld if corpus == "meld" else _plan_iemocap
    write_folder(out, plan(dialogues=dialogues, seed=seed, defects=defects, workers=workers))


def _plan_meld(*, dialogues: int, seed: int, defects: bool, workers: int | None) -> Callable[[Path], None]:
    """What fills a folder with a made-up MELD."""
    plan = meld.plan_meld(dialogues=dialogues, seed=seed)
    findings = plant_in_meld(plan) if defects else None

    def fill(root: Path) -> None:
        meld.write_tables(plan, root)
        if findings is not None:
            write_planted(root, findings)
        _write_media(meld.clips(plan, root), stubs=[root / stub for stub in plan.stubs], workers=workers)

    return fill


def _plan_iemocap(*, dialogues: int, seed: int, defects: bool, workers: int | None) -> Callable[[Path], None]:
    """What fills a folder with a made-up IEMOCAP."""
    plan = iemocap.plan_iemocap(dialogues=dialogues, seed=seed)
    findings = plant_in_iemocap(plan) if defects else None

    def fill(root: Path) -> None:
        iemocap.write_texts(plan, root)
        if findings is not None:
            write_planted(root, iemocap.with_splits(findings, root))
        _write_media(iemocap.scenes(plan, root), stubs=[root / stub for stub in plan.stubs], workers=workers)

    return fill


def _write_media(files: Sequence[Clip | Scene], *, stubs: Sequence[Path], workers: int | None) -> None:
    for stub in stubs:
        write_stub(stub)
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        for file in track(files, title="filming"):
            file.write()
        return
    # A forked process could inherit locks that threads of PyTorch or FFmpeg hold.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for written in track([pool.submit(file.write) for file in files], title="filming"):
            written.result()
    finally:
        pool.shutdown(cancel_futures=True)
