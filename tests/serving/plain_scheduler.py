"""The schedulers again, in plain Python: lists of requests, blocks and names, nothing compiled or clever."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moesim.serving.state import Asked, Rules

FCFS, PRIORITY, LONGEST = range(3)
NEXT_CHUNK, WHOLE_OUTPUT, SHARE, WHOLE_PROMPT = range(4)
WORD = (1 << 64) - 1


@dataclass(eq=False)
class Block:
    """A block of the cache; what it keeps is a unit, a request's number, or nothing."""

    keeps: object = None


@dataclass(eq=False)
class Unit:
    key: tuple[int, ...]
    blocks: list[Block]
    users: int = 0


@dataclass(eq=False)
class Request:
    number: int
    prompt: int
    output: int
    priority: int
    names: list[int]
    session: int
    sent: float = np.nan
    scheduled: float = np.nan
    first: float = np.nan
    last: float = np.nan
    done: int = 0
    given: int = 0
    planned: int = 0
    own: list[Block] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    kept: list[Block] = field(default_factory=list)
    kept_behind: int = 0
    stage: str = "ahead"
    gave: bool = False
    swapped: bool = False
    cached: int = 0
    thrown: int = 0
    gaps: list[float] = field(default_factory=list)

    @property
    def target(self) -> int:
        return self.prompt + self.given

    @property
    def decodes(self) -> bool:
        return self.given > 0 and self.done + 1 >= self.target


class Lane:
    """A queue, a batch and a cache."""

    def __init__(self, rules: Rules, blocks: int) -> None:
        self.rules = rules
        self.running: list[Request] = []
        self.queue: list[Request] = []
        self.door: list[Request] = []
        self.leaving: list[Request] = []
        self.free = [Block() for _ in range(blocks)]
        self.blocks = blocks
        self.units: dict[tuple[int, ...], Unit] = {}
        self.keepers: list[Request] = []
        self.full = False
        self.share = rules.share
        self.read = self.decoded = 0
        self.found = self.swaps = self.wasted = 0
        self.lost: list[Request] = []
        self.unit = 0
        if rules.caching and rules.hash_tokens:
            self.unit = int(np.lcm(rules.hash_tokens, rules.block))

    # Blocks.

    def take(self, many: int) -> list[Block]:
        taken = []
        for _ in range(many):
            block = self.free.pop(0)
            if isinstance(block.keeps, Unit):
                del self.units[block.keeps.key]
                for other in block.keeps.blocks:
                    if other is not block:
                        other.keeps = None
            elif isinstance(block.keeps, Request):
                block.keeps.kept.remove(block)
            block.keeps = None
            taken.append(block)
        return taken

    def keys(self, r: Request, tokens: int) -> list[tuple[int, ...]]:
        if self.unit == 0:
            return []
        many = self.unit // self.rules.hash_tokens
        full = min(tokens, r.prompt, len(r.names) * self.rules.hash_tokens) // self.unit
        return [tuple(r.names[: (u + 1) * many]) for u in range(full)]

    def match(self, r: Request) -> tuple[list[Unit], list[Block]]:
        units = []
        for key in self.keys(r, r.target):
            if key not in self.units:
                break
            units.append(self.units[key])
        return units, list(r.kept) if r.kept_behind == len(units) else []

    def found_tokens(self, r: Request) -> int:
        if not self.rules.caching:
            return 0
        units, kept = self.match(r)
        block = self.rules.block
        return min(len(units) * self.unit + len(kept) * block, (r.target - 1) // block * block)

    def hold(self, unit: Unit) -> None:
        if unit.users == 0:
            for block in unit.blocks:
                self.free.remove(block)
        unit.users += 1

    def lacks(self, r: Request, tokens: int) -> int:
        own = -(-(tokens - len(r.units) * self.unit) // self.rules.block)
        return max(own - len(r.own), 0)

    def grow(self, r: Request, tokens: int) -> bool:
        many = self.lacks(r, tokens)
        if many > len(self.free):
            return False
        r.own += self.take(many)
        return True

    def register(self, r: Request, tokens: int) -> None:
        size = self.unit // self.rules.block
        for key in self.keys(r, tokens)[len(r.units) :]:
            mine, r.own = r.own[:size], r.own[size:]
            if key in self.units:
                self.free += mine
                self.hold(self.units[key])
            else:
                unit = self.units[key] = Unit(key, mine, 1)
                for block in mine:
                    block.keeps = unit
            r.units.append(self.units[key])

    def release(self, r: Request, keep: int) -> None:
        self.keepers = [q for q in self.keepers if q.kept]
        if not self.rules.caching or len(self.keepers) >= self.rules.most:
            keep = 0
        self.keepers.append(r)
        kept = r.own[:keep]
        self.free += r.own[keep:]
        for block in reversed(kept):
            block.keeps = r
            self.free.append(block)
        r.kept, r.kept_behind, r.own = kept, len(r.units), []
        for u in range(len(r.units) - 1, -1, -1):
            unit = r.units[u]
            unit.users -= 1
            if unit.users == 0:
                self.free += reversed(unit.blocks)
                if (u + 1) * self.unit > r.done:
                    del self.units[unit.key]
                    for block in unit.blocks:
                        block.keeps = None
        r.units = []

    # Requests.

    def peak(self, r: Request) -> int:
        return r.prompt + r.output - 1 + self.rules.drafts

    def requeue(self, r: Request, front: bool) -> None:
        r.stage = "waiting"
        if front and self.rules.order != PRIORITY:
            self.queue.insert(0, r)
        else:
            self.queue.append(r)
        if self.rules.order == PRIORITY:
            self.queue.sort(key=lambda q: (q.priority, q.sent, q.number))

    def throw_out(self, r: Request, front: bool) -> None:
        rules = self.rules
        self.running.remove(r)
        own = min(r.done, r.prompt) if rules.prefill_first and not rules.swap else r.done
        own = max(own - len(r.units) * self.unit, 0)
        r.planned, r.gave = 0, False
        r.thrown += 1
        if rules.swap:
            self.swaps += -(-own // rules.block)
            r.swapped = True
            self.release(r, 0)
        else:
            self.release(r, own // rules.block)
            r.done = 0
        self.requeue(r, front)

    def asks(self, r: Request) -> int:
        many = r.target - r.done
        if many == 1 and r.gave:
            return 1 + self.rules.drafts
        return min(many, self.rules.long_prompt or many)

    def plan(self, r: Request, many: int) -> None:
        r.planned = many
        if r.decodes:
            self.decoded += many
        else:
            self.read += many
            if self.rules.eager and self.rules.caching:
                self.register(r, r.done + many)

    def left_of(self, r: Request) -> int:
        return min(r.output - r.given, 4096)

    def admit(self, left: int, room: float, now: float) -> tuple[str, int, float]:
        rules, r, block = self.rules, self.queue[0], self.rules.block
        units, kept = self.match(r) if rules.caching else ([], [])
        found = min(len(units) * self.unit + len(kept) * block, (r.target - 1) // block * block)
        start = max(r.done, found)
        many = min(r.target - start, rules.long_prompt or r.target)
        if many > left:
            alone = self.read + self.decoded == 0
            if rules.chunked:
                many = left // block * block if rules.prefill_first else left
                if many == 0:
                    return "later", 0, room
            elif not alone:
                return "later", 0, room
            elif not rules.prefill_first:
                if many <= rules.budget:
                    return "later", 0, room
                many = left
        upto = r.target if rules.admission in (WHOLE_OUTPUT, WHOLE_PROMPT) else start + many
        idle = sum(len(u.blocks) for u in units if u.users == 0) + len(kept)
        mine = len(units) * self.unit + len(kept) * block
        if max(-(-(upto - mine) // block), 0) + idle > len(self.free):
            return "no room", 0, room
        if rules.admission == WHOLE_OUTPUT:
            promised = sum(self.lacks(q, self.peak(q)) for q in self.running + self.leaving)
            if max(-(-(self.peak(r) - mine) // block), 0) + idle > len(self.free) - promised:
                return "no room", 0, room
        if rules.admission == SHARE:
            if r.target - start + self.left_of(r) + block >= room - idle * block:
                return "no room", 0, room
            room -= (idle + -(-many // block) + 1) * block
            if start + many == r.target:
                room -= self.left_of(r)
        self.queue.pop(0)
        self.running.append(r)
        r.stage = "running"
        for unit in units:
            self.hold(unit)
        r.units = units
        old, r.kept = r.kept, []
        for b in old:
            self.free.remove(b)
            b.keeps = None
        if kept:
            r.own += kept
        else:
            self.free += old
        if r.swapped:
            self.swaps += max(-(-(r.done - len(units) * self.unit) // block), 0)
            r.swapped = False
        self.found += start - r.done
        if np.isnan(r.scheduled):
            r.scheduled, r.cached = now, start - r.done
        r.done = start
        assert self.grow(r, upto)
        return "in", many, room

    # Steps.

    def form(self, now: float) -> bool:
        while True:
            self.read = self.decoded = 0
            thrown = self.form_prompts_first(now) if self.rules.prefill_first else self.form_shared(now)
            if self.read + self.decoded or self.leaving or not self.queue:
                break
            if thrown:
                continue
            if self.running:
                break
            r = self.queue.pop(0)
            r.stage = "lost"
            self.lost.append(r)
        if self.rules.late and not (self.rules.prefill_first and self.read):
            self.decoded += len(self.leaving) * (1 + self.rules.drafts)
            self.wasted += len(self.leaving) * (1 + self.rules.drafts)
        return self.read + self.decoded > 0

    def form_shared(self, now: float) -> bool:
        rules, left, i, thrown = self.rules, self.rules.budget, 0, False
        while i < len(self.running) and left > 0:
            r = self.running[i]
            many = min(self.asks(r), left)
            while not self.grow(r, r.done + many):
                victim = self.running[-1]
                if rules.order == PRIORITY:
                    victim = max(self.running, key=lambda q: (q.priority, q.sent, q.number))
                if self.running.index(victim) < i:
                    left += victim.planned
                    if victim.decodes:
                        self.decoded -= victim.planned
                    else:
                        self.read -= victim.planned
                    i -= 1
                self.throw_out(victim, True)
                thrown = True
                if victim is r:
                    break
            if r.stage != "running":
                break
            self.plan(r, many)
            left -= many
            i += 1
        if thrown:
            return True
        room = len(self.free) * rules.block - sum(
            self.left_of(r) * self.share for r in self.running if r.decodes
        )
        while left > 0 and self.queue and len(self.running) + len(self.leaving) < rules.most:
            r = self.queue[0]
            verdict, many, room = self.admit(left, room, now)
            if verdict != "in":
                break
            self.plan(r, many)
            left -= many
        return False

    def form_prompts_first(self, now: float) -> bool:
        rules, block = self.rules, self.rules.block
        if not self.running:
            self.full = False
        midway = bool(self.running) and not self.running[-1].decodes
        if midway or (self.queue and not self.full):
            left = rules.budget
            if rules.mixed:
                left -= len(self.running) - midway
            if midway:
                r = self.running[-1]
                many = min(r.target - r.done, left)
                if many > 0:
                    if not self.grow(r, r.done + many):
                        self.throw_out(r, False)
                        self.full = True
                        return True
                    self.plan(r, many)
            room = float(len(self.free) * block)
            for r in self.running:
                if r.decodes:
                    room -= self.left_of(r) * self.share + (1 if rules.mixed else 0)
                elif r.planned:
                    left -= -(-r.planned // block) * block
                    room -= block + (self.left_of(r) if r.done + r.planned == r.target else 0)
            if rules.order == LONGEST:
                self.sort_by_prefix()
            while self.queue and left > 0 and (room > 0 or rules.admission != SHARE):
                if len(self.running) + len(self.leaving) >= rules.most:
                    self.full = True
                    break
                r = self.queue[0]
                verdict, many, room = self.admit(left, room, now)
                if verdict == "no room":
                    self.full = True
                if verdict != "in":
                    break
                if r.decodes:
                    continue
                self.plan(r, many)
                left -= -(-many // block) * block
            if self.read:
                if rules.mixed:
                    for r in self.running:
                        if r.decodes and self.grow(r, r.done + 1):
                            self.plan(r, 1)
                return False
        return self.decode()

    def sort_by_prefix(self) -> None:
        if not self.rules.caching or len(self.queue) > 128:
            return
        seen, scores = set(), {}
        for r in self.queue:
            scores[r] = self.found_tokens(r)
            first = self.keys(r, self.unit)
            if scores[r] <= 32 and first:
                if first[0] in seen:
                    scores[r] = -1
                seen.add(first[0])
        self.queue.sort(key=lambda r: -scores[r])

    def decode(self) -> bool:
        rules = self.rules
        ready = [r for r in self.running if r.decodes]
        thrown = sum(self.lacks(r, r.done + self.asks(r)) for r in ready) > len(self.free)
        if thrown:
            first = True
            while len(self.running) > 1:
                if not first and len(self.free) * rules.block >= 20 * len(self.running):
                    break
                first = False
                order = list(enumerate(self.running))
                worst = min(order, key=lambda x: (x[1].given, -x[1].prompt, -x[0]))[1]
                self.throw_out(worst, False)
            given = sum(r.given + 20 for r in self.running)
            self.share = min(given / max(sum(r.output for r in self.running), 1), 1.0)
            self.full = False
        elif self.running:
            self.share = max(self.share - rules.share_fall, rules.share_low)
        for r in [r for r in self.running if r.decodes]:
            if self.grow(r, r.done + self.asks(r)):
                self.plan(r, self.asks(r))
            else:
                self.throw_out(r, False)
                thrown = True
        return thrown

    def settle(self) -> bool:
        changed = bool(self.leaving or self.door)
        if self.leaving:
            self.full = False
        for r in self.leaving:
            self.release(r, 0)
        self.leaving = []
        door, self.door = self.door, []
        for r in door:
            self.requeue(r, False)
        return changed

    def finish(self, now: float) -> int:
        ended = 0
        for r in list(self.running):
            many, r.planned = r.planned, 0
            if many == 0:
                continue
            given = 1
            if r.decodes:
                given = min(accepted(self.rules, r, many), r.output - r.given)
                r.done = r.target + given - 1
            else:
                r.done += many
                if not self.rules.eager and self.rules.caching:
                    self.register(r, r.done)
                if r.done < r.target:
                    continue
            if r.given == 0:
                r.first = now
            else:
                r.gaps += [now - r.last] + [0.0] * (given - 1)
            r.last, r.gave = now, True
            r.given += given
            if r.given >= r.output:
                ended += 1
                r.stage = "done"
                self.full = False
                self.running.remove(r)
                if self.rules.ahead:
                    self.leaving.append(r)
                else:
                    self.release(r, 0)
        return ended


def accepted(rules: Rules, r: Request, many: int) -> int:
    """Draws of `moesim.serving.kernel.step`, in whole numbers."""
    x = (rules.seed * 0x9E3779B97F4A7C15 + r.number * 0xD1B54A32D192ED03) & WORD
    x = (x + r.given * 0x8CB92BA72F3D8DD7) & WORD
    given = 1
    for _ in range(many - 1):
        x = (x + 0x9E3779B97F4A7C15) & WORD
        z = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        z ^= z >> 31
        if (z >> 11) * 2.0**-53 >= rules.acceptance:
            break
        given += 1
    return given


class Plain:
    """A fleet; every step takes `step_s`, and the stalls of its swaps."""

    def __init__(self, asked: Asked, rules: Rules, replicas: int, blocks: int, step_s: float) -> None:
        self.rules, self.step_s = rules, step_s
        names = np.asarray(asked.hashes).tolist()
        self.requests = [
            Request(
                i,
                int(asked.prompt[i]),
                int(asked.output[i]),
                int(asked.priority[i]),
                names[asked.hash_ptr[i] : asked.hash_ptr[i + 1]],
                int(asked.session[i]) if len(asked.session) else -1,
            )
            for i in range(len(asked.prompt))
        ]
        self.arrival = np.asarray(asked.arrival_s).tolist()
        self.lanes = [Lane(rules, blocks) for _ in range(replicas * rules.lanes)]
        self.ends = [np.inf] * replicas
        self.log: list[tuple[float, ...]] = []
        self.paid = [0] * replicas
        self.flying = self.turn = 0
        self.chosen: list[int] = []

    def lanes_of(self, replica: int) -> list[Lane]:
        return self.lanes[replica * self.rules.lanes : (replica + 1) * self.rules.lanes]

    def run(self) -> None:
        line: list[Request] = []
        coming = list(zip(self.arrival, self.requests, strict=True))
        while coming or min(self.ends) < np.inf:
            end = min(self.ends)
            if coming and coming[0][0] <= end:
                now, replica = coming[0][0], -1
                while coming and coming[0][0] <= now:
                    line.append(coming.pop(0)[1])
            else:
                now, replica = end, self.ends.index(end)
                self.ends[replica] = np.inf
                self.flying -= sum(lane.finish(now) for lane in self.lanes_of(replica))
            if replica >= 0 and self.rules.ahead:
                self.begin(replica, now)
            while True:
                touched = [] if replica < 0 or self.rules.ahead else [replica]
                while line and (not self.rules.closed or self.flying < self.rules.closed):
                    touched += self.deliver(line.pop(0), now)
                lost = sum(self.begin(each, now) for each in touched)
                replica = -1
                if not lost:
                    break

    def deliver(self, r: Request, now: float) -> list[int]:
        lane = self.choose(r)
        self.chosen.append(lane)
        here, rules = self.lanes[lane], self.rules
        r.sent = now
        fits = here.peak(r) <= here.blocks * rules.block
        if not rules.chunked and not rules.prefill_first and r.prompt > rules.budget:
            fits = False
        if rules.admission == SHARE:
            fits = fits and r.prompt + here.left_of(r) + rules.block < here.blocks * rules.block
        if not fits:
            r.stage = "lost"
            return [lane // rules.lanes]
        self.flying += 1
        replica = lane // rules.lanes
        if rules.ahead and self.ends[replica] < np.inf:
            r.stage = "waiting"
            here.door.append(r)
        else:
            here.requeue(r, False)
        return [replica]

    def choose(self, r: Request) -> int:
        turn, n = self.turn, len(self.lanes)
        self.turn += 1
        if self.rules.router == 0:
            return turn % n
        order = [(turn + i) % n for i in range(n)]
        loads = [len(x.running) + len(x.queue) + len(x.door) for x in self.lanes]
        if self.rules.router == 2:
            waits = [x.running + x.queue + x.door for x in self.lanes]
            return min(order, key=lambda x: sum(q.target - q.done for q in waits[x]))
        if self.rules.router == 5:
            found = [x.found_tokens(r) for x in self.lanes]
            best = min(order, key=lambda x: (-found[x], loads[x]))
            apart = max(loads) - min(loads)
            uneven = apart > 64 and max(loads) > 1.5 * min(loads)
            if not uneven and found[best] > 0.3 * r.prompt:
                return best
        if self.rules.router == 7:
            waits = [len(x.queue) + len(x.door) for x in self.lanes]
            return min(range(n), key=lambda x: 4 * waits[x] + len(self.lanes[x].running))
        return min(order, key=lambda x: loads[x])

    def begin(self, replica: int, now: float) -> int:
        if self.ends[replica] < np.inf:
            return 0
        lanes = self.lanes_of(replica)
        if not any(x.running or x.queue or x.door or x.leaving for x in lanes):
            return 0
        before = sum(len(x.lost) for x in lanes)
        busy = False
        while not busy:
            formed = [x.form(now) for x in lanes]
            changed = [x.settle() for x in lanes]
            busy = True in formed
            if True not in changed:
                break
        lost = sum(len(x.lost) for x in lanes) - before
        self.flying -= lost
        if not busy:
            for x in lanes:
                x.share = self.rules.share
            return lost
        moved = sum(x.swaps for x in lanes) - self.paid[replica]
        self.paid[replica] += moved
        self.ends[replica] = now + (self.step_s + moved * self.rules.swap_s)
        self.log.append(
            (
                replica,
                now,
                sum(x.read for x in lanes),
                sum(x.decoded for x in lanes),
                sum(len(x.running) for x in lanes),
                sum(len(x.queue) + len(x.door) for x in lanes),
                sum(x.blocks - len(x.free) for x in lanes),
            )
        )
        return lost
