"""Is a description plausible? Small checks, each of one thing; a finding is a fault or a warning."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from moesim.errors import Fault, nearest
from moesim.hardware.check_links import (
    check_counts,
    check_fabric,
    check_shapes,
    check_switches,
    links_of,
)
from moesim.hardware.check_sizes import (
    LINK_LATENCY,
    check_caches,
    check_energies,
    check_ranges,
    in_range,
    processors_of,
)
from moesim.hardware.curves import Curve
from moesim.hardware.kernels import RESOLUTION
from moesim.hardware.provenance import Provenance
from moesim.hardware.spec import EfficiencySpec, ProcessorSpec, Spec

#: Largest correction of a bare roofline that a measured kernel may have, as a logarithm: e**12 is 160,000.
MOST_S = 12.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a check found; only a strict one keeps the description from being used."""

    fault: Fault
    strict: bool


def check(
    spec: Spec,
    origins: Sequence[Provenance],
    *,
    families: Collection[str],
    kernels: Collection[str],
    catalogue: bool,
) -> list[Finding]:
    """Every finding about a description.

    Parameters
    ----------
    spec
        The description.
    origins
        Origin of each of its numbers.
    families
        Names of the efficiency families there are.
    kernels
        Names of the files of measured kernels there are.
    catalogue
        Whether it is one of moesim's own, where every number needs a source.
    """
    found: list[Finding] = [Finding(fault, False) for fault in check_fp8_is_twice_bf16(spec)]
    found += [Finding(fault, catalogue) for fault in check_noise(spec)]
    found += [Finding(fault, catalogue) for fault in check_sources(spec, origins)]
    found += [Finding(fault, catalogue) for fault in check_prices(spec)]
    found += [Finding(fault, True) for fault in check_families(spec, families)]
    found += [Finding(fault, True) for fault in check_kernels(spec, kernels)]
    for rule in _STRICT:
        found += [Finding(fault, True) for fault in rule(spec)]
    return found


def check_peaks(spec: Spec) -> Iterator[Fault]:
    """Each main processor has a bf16 peak: what no data type says is computed in it."""
    for name, device in spec.devices.items():
        first = next(iter(device.processors))
        if not {"bf16", "fp16"} & set(device.processors[first].peak):
            where = f"devices.{name}.processors.{first}.peak"
            yield Fault("the main processor has no bf16 peak", where, None, "bf16 (or fp16)")


def check_fp8_is_twice_bf16(spec: Spec) -> Iterator[Fault]:
    """Dense fp8 is as fast as dense bf16 or twice; a fourfold one is usually a sparse figure."""
    for where, processor in processors_of(spec):
        bf16, fp8 = processor.peak.get("bf16"), processor.peak.get("fp8")
        if bf16 and fp8 and min(abs(fp8.value / (n * bf16.value) - 1) for n in (1, 2)) > 0.10:
            ratio = fp8.value / bf16.value
            yield Fault(
                f"fp8 is {ratio:.2f} x bf16; peaks are dense",
                f"{where}.peak.fp8",
                fp8.text,
                "about 2 x bf16, or as bf16",
            )


def check_names(spec: Spec) -> Iterator[Fault]:
    """A processor's own bandwidths and energies are to memories there are."""
    for device_name, device in spec.devices.items():
        for name, processor in device.processors.items():
            for key, table in (("bandwidth", processor.bandwidth), ("path_energy", processor.path_energy)):
                for memory in table:
                    if memory not in device.memories:
                        near = nearest(memory, list(device.memories), 1)
                        hint = f"; nearest: {near[0]}" if near else ""
                        where = f"devices.{device_name}.processors.{name}.{key}.{memory}"
                        yield Fault("no such memory", where, None, f"{', '.join(device.memories)}{hint}")


def check_domain(spec: Spec) -> Iterator[Fault]:
    """A scale-up domain holds a node, or is held by it, without remainder."""
    devices, domain = int(spec.node.devices.value), int(spec.node.scale_up.domain.value)
    if max(devices, domain) % min(devices, domain):
        yield Fault(
            f"a domain of {domain} and a node of {devices} devices do not divide each other",
            "node.scale_up.domain",
            domain,
            "a multiple or a divisor of node.devices",
        )


def check_cluster(spec: Spec) -> Iterator[Fault]:
    """The usual number of nodes is at most the largest."""
    cluster = spec.cluster
    if cluster and cluster.default_nodes and cluster.max_nodes:
        usual, most = int(cluster.default_nodes.value), int(cluster.max_nodes.value)
        if usual > most:
            yield Fault("more than max_nodes", "cluster.default_nodes", usual, f"at most {most}")


def check_collectives(spec: Spec) -> Iterator[Fault]:
    """Fits have lists of one length, rising ranks inside the domain, and possible bandwidths.

    Bus bandwidth stays below the link's (with 10 % for rounding), but switches that reduce (NVLink SHARP)
    halve the traffic of an all-reduce, which may show up to twice the link's bandwidth.
    """
    for where, link in links_of(spec):
        for name, fit, path in link.collectives.items():
            at = f"{where}.collectives.{path}"
            lengths = {len(fit.ranks), len(fit.latency), len(fit.share)}
            if len(lengths) != 1 or 0 in lengths:
                wrong = "ranks, latency and share differ in length or are empty"
                yield Fault(wrong, at, None, "three lists of one length")
                continue
            if {len(fit.small_share), len(fit.bulk_latency)} not in ({0}, lengths):
                wrong = "small_share and bulk_latency differ in length from ranks"
                yield Fault(wrong, at, None, "both as long as ranks, or neither")
            ranks = [int(rank.value) for rank in fit.ranks]
            if ranks[0] < 2 or any(b <= a for a, b in itertools.pairwise(ranks)):
                yield Fault("ranks do not rise from at least 2", f"{at}.ranks", ranks, "as in [2, 4, 8]")
            limit = 2.0 if name.startswith("all_reduce") else 1.1
            shares = [("share", i, s) for i, s in enumerate(fit.share)]
            shares += [("small_share", i, s) for i, s in enumerate(fit.small_share)]
            for key, index, share in shares:
                if share.value > limit:
                    wrong = "bus bandwidth beyond the link's"
                    yield Fault(wrong, f"{at}.{key}.{index}", share.value, f"at most {limit:g} of the link")


def check_exchanges(spec: Spec) -> Iterator[Fault]:
    """Latencies of exchanges are plausible, joined by an exponent of at least one."""
    for name, exchange in spec.exchanges.items():
        at = f"exchanges.{name}"
        if exchange.sharpness.value < 1:
            yield Fault("not at least 1", f"{at}.sharpness", exchange.sharpness.value, "at least 1")
        for way, part in (("dispatch", exchange.dispatch), ("combine", exchange.combine)):
            yield from in_range(f"{at}.{way}.floor", part.floor, LINK_LATENCY)
            for key, leg in (("up", part.up), ("out", part.out)):
                if leg is not None:
                    yield from in_range(f"{at}.{way}.{key}.latency", leg.latency, LINK_LATENCY)


def check_efficiencies(spec: Spec) -> Iterator[Fault]:
    """The curves a machine's own file gives."""
    for where, processor in processors_of(spec):
        if processor.efficiency:
            yield from check_curves(processor.efficiency.kinds, f"{where}.efficiency.kinds")
        if processor.tiles:
            yield from check_tiles(processor, where)


def check_families(spec: Spec, families: Collection[str]) -> Iterator[Fault]:
    """Efficiency families that processors refer to exist."""
    for where, processor in processors_of(spec):
        name = processor.efficiency.like if processor.efficiency else None
        if name is not None and name not in families:
            near = nearest(name, families, 1)
            hint = f"; nearest: {near[0]}" if near else ""
            allowed = f"{', '.join(families)}{hint}"
            yield Fault("no such efficiency family", f"{where}.efficiency", name, allowed)


def check_kernels(spec: Spec, kernels: Collection[str]) -> Iterator[Fault]:
    """Measured kernels that processors refer to exist."""
    for where, processor in processors_of(spec):
        name = processor.kernels.like if processor.kernels else None
        if name is not None and name not in kernels:
            near = nearest(name, kernels, 1)
            hint = f"; nearest: {near[0]}" if near else ""
            yield Fault(
                "no such measured kernels", f"{where}.kernels", name, f"{', '.join(kernels) or 'none'}{hint}"
            )


def check_tiles(spec: ProcessorSpec, where: str) -> Iterator[Fault]:
    """Tiles are dealt to cores, in a data type that the processor multiplies, at shares that do not leap."""
    if spec.cores is None:
        yield Fault(
            "is missing beside tiles", f"{where}.cores", None, "the number of tiles worked on at once"
        )
    for dtype, law in spec.tiles.items():
        if dtype not in spec.peak:
            yield Fault("has no peak", f"{where}.tiles.{dtype}", None, ", ".join(spec.peak))
        yield from _leaps((("memory", law.memory), ("moves", law.moves)), f"{where}.tiles.{dtype}")


def check_own_kernels(spec: Spec) -> Iterator[Fault]:
    """Kernels that a machine's own file holds: each once, of data types there are peaks for."""
    for where, processor in processors_of(spec):
        seen: dict[tuple[str, str, str], int] = {}
        for index, fit in enumerate(processor.kernels.fits if processor.kernels else ()):
            at = f"{where}.kernels.fits.{index}"
            key = fit.kernel, fit.dtype, fit.backend
            if key in seen:
                wrong = f"the same kernel as fits.{seen[key]}"
                yield Fault(wrong, at, " ".join(key), "one for each kernel, dtype and backend")
            seen.setdefault(key, index)
            most = max((abs(step) for step in fit.steps), default=0) * RESOLUTION
            if most > MOST_S:
                yield Fault(
                    f"corrects the roofline by exp({most:.1f})",
                    f"{at}.steps",
                    None,
                    f"at most exp({MOST_S:g})",
                )


def check_noise(spec: Spec) -> Iterator[Fault]:
    """Kernels were measured on a machine that was quiet enough."""
    for where, processor in processors_of(spec):
        if processor.kernels and processor.kernels.measured.get("verdict") == "inconclusive":
            wrong = "inconclusive: the machine was too noisy when it was calibrated"
            yield Fault(wrong, f"{where}.kernels.measured", None, "moesim calibrate, on a quiet machine")


def check_curves(kinds: Mapping[str, EfficiencySpec], where: str) -> Iterator[Fault]:
    """A larger operation never takes less time: no curve rises faster than the size itself."""
    for kind, spec in kinds.items():
        yield from _leaps((("compute", spec.compute), ("memory", spec.memory)), f"{where}.{kind}")


def _leaps(curves: Iterable[tuple[str, Curve]], where: str) -> Iterator[Fault]:
    for name, curve in curves:
        for (small, low), (large, high) in itertools.pairwise(curve):
            # On a line in log size the steepest relative rise is at the lower end.
            if high - low > low * math.log(large / small):
                yield Fault(
                    "rises so fast that a larger operation would take less time",
                    f"{where}.{name}",
                    [[small, low], [large, high]],
                    "a rise of at most value x ln(size ratio) between points",
                )


def check_sources(spec: Spec, origins: Iterable[Provenance]) -> Iterator[Fault]:
    """Every number has a source, and the file's ``sources`` explain it."""
    known = list(spec.sources)
    for origin in origins:
        if origin.key is None:
            yield Fault("no source", origin.path, None, "a 'source' here or in an enclosing mapping")
        elif origin.key not in spec.sources:
            near = nearest(origin.key, known, 1)
            hint = f"; nearest: {near[0]}" if near else ""
            yield Fault(
                f"its source {origin.key!r} is not explained", origin.path, None, f"a key of 'sources'{hint}"
            )


def check_prices(spec: Spec) -> Iterator[Fault]:
    """A price says who asked it; the schema asks for the day."""
    for name, device in spec.devices.items():
        if device.price and not device.price.vendor.strip():
            yield Fault("no vendor", f"devices.{name}.price.vendor", None, "who asks this price")


_STRICT: tuple[Callable[[Spec], Iterator[Fault]], ...] = (
    check_ranges,
    check_peaks,
    check_names,
    check_domain,
    check_cluster,
    check_collectives,
    check_exchanges,
    check_efficiencies,
    check_own_kernels,
    check_caches,
    check_energies,
    check_counts,
    check_shapes,
    check_switches,
    check_fabric,
)
