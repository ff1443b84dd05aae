"""``python -m tests.bench.reads``: GET /balance under full write load, and writes under reads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING, Final

import click

from tests.bench import machine, wrk
from tests.bench.contestants import TELLER, running

if TYPE_CHECKING:
    from tests.bench.wrk import Slice

WRITERS: Final = 64
READERS: Final = 16
MIXES: Final = (("writes",), ("reads",), ("writes", "reads"))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--seconds", type=click.IntRange(1, 600), default=3, show_default=True)
def main(*, rounds: int, seconds: int) -> None:
    """One service, three mixes in turn: deposits alone, balances alone, both at once."""
    service_cores, load_cores = machine.split_cores()
    seen: dict[tuple[str, str], list[Slice]] = {}
    cpu_us: dict[str, list[float]] = {}
    with running(TELLER, cores=service_cores) as at_work, ThreadPoolExecutor(2) as pool:
        for number in range(-1, rounds):
            for mix in MIXES:

                def load(what: str, number: int = number, mix: tuple[str, ...] = mix) -> Slice:
                    return wrk.load(
                        at_work.url,
                        connections=WRITERS if what == "writes" else READERS,
                        seconds=seconds if number >= 0 else 1,
                        prefix=f"r{number}-{len(mix)}-",
                        cores=load_cores,
                        script=wrk.SCRIPT if what == "writes" else wrk.BALANCE,
                    )

                before_s = at_work.cpu_s()
                slices = list(pool.map(load, mix))
                cpu_s = at_work.cpu_s() - before_s
                if number < 0:  # the first round only warms up
                    continue
                name = "+".join(mix)
                cpu_us.setdefault(name, []).append(
                    1e6 * cpu_s / sum(slice_.requests for slice_ in slices)
                )
                for what, slice_ in zip(mix, slices, strict=True):
                    seen.setdefault((what, name), []).append(slice_)
    for (what, name), taken in seen.items():
        p50 = median(slice_.percentiles_ms["50"] for slice_ in taken)
        p99 = median(slice_.percentiles_ms["99"] for slice_ in taken)
        rate = median(slice_.per_s for slice_ in taken)
        click.echo(
            f"{what:6} under {name:12} {rate:7,.0f}/s  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  "
            f"{median(cpu_us[name]):.0f} us of processor time a request"
        )


if __name__ == "__main__":
    main()
