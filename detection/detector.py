"""Events in, scores and verdicts out: the detector of evaluation, pyfunc and the scoring service.

Each new action is scored at once, in the window of its principal's last actions that ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import ATTRIBUTE_FIELDS, ATTRIBUTES, HASHED, HOURS, attribute_hashes
from data.actions.encoder import ActionBatch, ActionEncoder
from data.actions.fields import FIELDS, stable_hash
from data.actions.sensitivity import Sensitivity
from data.actions.stage_folding import StageFolder
from data.actions.vocabulary import UNKNOWN, is_kind
from data.events.audit_event import AuditEvent
from data.principals.identity import Principal
from data.principals.peer_groups import PrincipalTable
from detection.bundle import Bundle
from detection.evidence import Accumulator, Sums
from detection.exceptions import DEED, AllowedAction, HabitExceptions, none_of
from detection.judged_actions import ActionColumns, Judgement
from detection.judging import ActionJudge
from detection.novelty import LIMIT, MATURE, HabitTable, PriorCounts
from detection.own_week import Week, hour_hashes, observe_week
from detection.probation import PROBATION_DAYS, PrincipalProbation, Probation, Verdict
from detection.rarity import classes_of, is_machinery
from detection.reconstruction import Ints, Model, NewestOnnxModel, Nll, OnnxModel, Reconstruction
from detection.severity import SEVERITIES as SEVERITIES
from detection.severity import newcomers, severity_by_rank, severity_of
from detection.windows import Contexts, Windows

_TOP_FIELDS = 5
_ALTERNATIVES = 3
#: Attributes that say what kind of action it is.
_BROAD_ATTRIBUTES = [
    list(ATTRIBUTES).index(name) for name in ("verb_resource", "resource_namespace", "traits", "impersonates")
]

#: Fields that speak of a changed cluster when training knew none of their values: names and places change every day.
_KNOWN_FIELDS = [FIELDS.index(name) for name in ("verb", "resource")]

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class FieldReason:
    """A field the model reconstructed badly.

    Attributes:
        field, value: what it was.
        nll: negative log-likelihood, nats.
        expected: what the decoder expected of this principal instead: value, probability.
        of_peers: what it would have expected of an unknown member of its peer group.
    """

    field: str
    value: str
    nll: float
    expected: list[tuple[str, float]]
    of_peers: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True)
class HabitReason:
    """An attribute of the action that is new to its principal.

    Attributes:
        attribute: name in ATTRIBUTES.
        value: its fields' values, space-separated.
        times_before: earlier actions of the principal that had it.
        actions_before: earlier actions of the principal; days on which it was active before for the attribute `hours`.
        peers_with: other members of the peer group that ever had it.
        peers: other members of the peer group.
        anyone_with: other principals that ever had it.
    """

    attribute: str
    value: str
    times_before: int
    actions_before: int
    peers_with: int
    peers: int
    anyone_with: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one action was flagged: what is new (most important first) and what the model did not expect."""

    fields: list[FieldReason]
    habits: list[HabitReason]
    values: dict[str, str]
    sensitivity: str


@dataclass(slots=True)
class Scores:
    """Columns over the scored actions of one call, in arrival order; F = len(FIELDS).

    Attributes:
        event: int64 [N], index into the given events.
        principal, kind, group: who acted, of which kind, in which peer group.
        time: datetime64[us] [N], when the request was received.
        nll: float32 [N, F], reconstruction NLL of each field, nats.
        surprise: float32 [N], their sum.
        novelty: float64 [N], how rarely normal work shows what is new in the action, decades.
        error: float64 [N], evidence of its reconstruction error, -log10 of the calibrated p-value.
        evidence: float64 [N], what has added up by this action at the horizon where it stands out most, decades; 0 for an
            action that adds nothing.
        threshold: float64 [N], evidence at which it is flagged.
        flagged: bool [N].
        sensitivity: int8 [N], level in data.actions.sensitivity.LEVELS.
        severity: one of SEVERITIES; "none" when not flagged.
        folded: int64 [M], events that belong to an action scored before.
        dropped: int64 [K], events left out by the settings.
        explanations: index of a flagged action -> its explanation.
        novelty_evidence, error_evidence: float64 [N], what the action itself adds to what adds up, decades; 0 for most.
        novelties: index of an action that adds something -> what is new about it, most important first.
        own_actions: int64 [N], earlier actions of the principal.
        pauses: int64 [N], microseconds since the previous action of the principal; 0 for its first.
        unknown: bool [N], whose verb or resource is none that training knew.
        repeat: bool [N], whether a flagged action repeats one that was flagged before, on which nobody gave a verdict.
        first_flagged: datetime64[us] [N], when the action that a repeat repeats was flagged; NaT for others.
        allowed: index of an action that an exception kept from being flagged -> by which, and how far it stood out.
    """

    event: Ints
    principal: list[str]
    kind: list[str]
    group: list[str]
    time: npt.NDArray[np.datetime64]
    nll: Nll
    surprise: npt.NDArray[np.float32]
    novelty: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    evidence: npt.NDArray[np.float64]
    threshold: npt.NDArray[np.float64]
    flagged: npt.NDArray[np.bool_]
    sensitivity: npt.NDArray[np.int8]
    severity: list[str]
    folded: Ints
    dropped: Ints
    explanations: dict[int, Explanation] = field(default_factory=dict)
    novelty_evidence: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    error_evidence: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    novelties: dict[int, list[HabitReason]] = field(default_factory=dict)
    unknown: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    own_actions: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    pauses: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    repeat: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    first_flagged: npt.NDArray[np.datetime64] = field(default_factory=lambda: np.empty(0, "M8[us]"))
    allowed: dict[int, AllowedAction] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a detector holds in memory.

    Attributes:
        principals: those whose context is held.
        habits: counts of what was done before.
        state_bytes: bytes of both.
        cached_windows: windows whose error the cache had.
        computed_windows: windows that went through the model.
    """

    principals: int
    habits: int
    state_bytes: int
    cached_windows: int
    computed_windows: int


@dataclass(frozen=True, slots=True)
class _Actors:
    """Who acted, as columns over the actions of a batch."""

    names: list[str]
    kinds: list[str]
    groups: list[str]
    ids: Ints
    group_ids: Ints
    name_hashes: Hashes
    group_hashes: Hashes


class _KnownPrincipals:
    """The encoder's table of principals as columns; each principal is looked up once."""

    def __init__(self, table: PrincipalTable) -> None:
        self._table = table
        self._generation = -1
        self._texts: list[tuple[str, str, str]] = []
        self._ids = np.empty((0, 2), np.int64)
        self._hashes = np.empty((0, 2), np.uint64)

    def columns(self, batch: ActionBatch, generation: int) -> _Actors:
        """Columns of a batch."""
        if self._generation != generation:
            self._generation = generation
            self._texts, self._ids, self._hashes = [], self._ids[:0], self._hashes[:0]
        if len(self._texts) < len(batch.principals):
            self._learn(batch.principals[len(self._texts) :])
        codes = batch.principal
        texts = [self._texts[code] for code in codes.tolist()]
        names, kinds, groups = map(list, zip(*texts, strict=True)) if texts else ([], [], [])
        ids, hashes = self._ids[codes], self._hashes[codes]
        return _Actors(names, kinds, groups, ids[:, 0], ids[:, 1], hashes[:, 0], hashes[:, 1])

    def _learn(self, principals: Sequence[Principal]) -> None:
        table = self._table
        texts = [(one.name, one.kind, table.group(one)) for one in principals]
        ids = [(table.ids.get(name, 0), table.groups.get(group, 0)) for name, _, group in texts]
        hashes = [(stable_hash(name), stable_hash(group)) for name, _, group in texts]
        self._texts += texts
        self._ids = np.concatenate([self._ids, np.array(ids, np.int64)])
        self._hashes = np.concatenate([self._hashes, np.array(hashes, np.uint64)])


class Detector:
    """Scores actions against the habits in a bundle and keeps those habits up to date as it goes."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int = 1,
        model: Model | None = None,
        newest: NewestOnnxModel | None = None,
        cached_windows: int = 0,
        warm: bool = True,
        folder: StageFolder | None = None,
        probation_days: int = PROBATION_DAYS,
    ) -> None:
        """Start from what the bundle knows.

        Args:
            threads: of onnxruntime.
            model: in place of the bundle's graph.
            newest: in place of the bundle's graph for the newest action; with `model`, another detector's sessions are shared.
            cached_windows: capacity of the cache of reconstruction errors; 0 for none.
            warm: load the context of all principals now; else call `warm` before they act.
            folder: memory of requests; give one with a key to continue it in another process.
            probation_days: further days on which what was flagged must be done to become a habit without a verdict.
        """
        self.bundle = bundle
        if model is None and bundle.newest_path is not None:
            newest = NewestOnnxModel(str(bundle.newest_path), threads)
        self.model: Model = model or OnnxModel(str(bundle.model_path), threads)
        self.reconstruction = Reconstruction(self.model, newest, cached_windows)
        self.encoder = ActionEncoder(bundle.settings, folder=folder)
        self.habits: HabitTable = bundle.habits.copy(limit=max(LIMIT, 2 * len(bundle.habits)))
        self.accumulator = Accumulator(bundle.calibration.horizons, bundle.calibration.activity)
        self.probation = Probation(probation_days)
        self.exceptions = HabitExceptions()
        self.windows = Windows(bundle.window)
        if warm:
            self.warm(bundle.warmup.tokens)
        self._load: Callable[[Sequence[str]], None] = lambda _: None
        #: Of the innermost open fork: what undoes each call of `score` since it began, the last one first.
        self._fork: ExitStack | None = None
        self._known = _KnownPrincipals(bundle.principals)
        sizes = bundle.vocabulary.sizes
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def attach(self, load: Callable[[Sequence[str]], None]) -> None:
        """Call this with the principals of a batch before their state is read, to load that of evicted ones."""
        self._load = load

    def warm(self, names: Iterable[str]) -> None:
        """Give principals their context at the end of training; a later one is replaced."""
        warmup = self.bundle.warmup
        for name in dict.fromkeys(names):
            if name in warmup.tokens:
                self.windows.seed(name, warmup.tokens[name], warmup.last[name])

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        """Score events in arrival order and update the state; if this raises, the state is as it was before.

        Args:
            events: any number of events; how they are split over calls does not change any score.
        """
        with ExitStack() as undo:
            undo.callback(self.encoder.checkpoint())
            scores = self._score(events, undo)
            done = undo.pop_all()
        if self._fork is not None:
            self._fork.callback(done.close)
        return scores

    def apply_verdict(self, principal: str, times: Collection[int], verdict: Verdict) -> None:
        """Take in what people say about flagged actions: normal ones are habits from now on, malicious ones never.

        Args:
            principal: who acted.
            times: when the flagged actions came in, microseconds since 1970 UTC.
        """
        self._load([principal])
        with ExitStack() as undo:
            undo.callback(self.probation.checkpoint([principal]))
            normal, malicious = self.probation.judge(principal, times, verdict)
            if normal or malicious:
                who = stable_hash(principal), self.probation.group(principal)
                counts = np.array(list(normal.values()), np.int64)
                undo.callback(self.habits.grant(*who, np.array(list(normal), np.uint64), counts))
                undo.callback(self.habits.withdraw(*who, np.array(malicious, np.uint64)))
            done = undo.pop_all()
        if self._fork is not None:
            self._fork.callback(done.close)

    def allow(self, exceptions: HabitExceptions) -> None:
        """Let these exceptions, and no others, hold from now on."""
        self.exceptions = exceptions

    def restore_probation(self, records: Mapping[str, PrincipalProbation]) -> None:
        """Take in records of this or another bundle's detector; what is on probation leaves the habits."""
        self.probation.restore(records)
        for name, record in records.items():
            held = np.array(record.held(), np.uint64)
            self.habits.withdraw(stable_hash(name), record.group, held)

    @contextmanager
    def fork(self) -> Iterator[None]:
        """Score on trial: on exit the state is again what it was on entry, and all later scores are as without the fork.

        Forks may be nested. The cost is that of the calls of `score` inside, not that of the state.
        """
        outer = self._fork
        try:
            with ExitStack() as self._fork:
                yield
        finally:
            self._fork = outer

    def _restore(self, names: Sequence[str], contexts: Contexts, sums: Sums) -> None:
        self.windows.pop(names)
        self.windows.restore(contexts)
        self.accumulator.pop(names)
        self.accumulator.restore(sums)

    def _score(self, events: Sequence[AuditEvent], undo: ExitStack) -> Scores:
        batch = self.encoder.encode(events)
        vocabulary, calibration = self.bundle.vocabulary, self.bundle.calibration
        tokens = vocabulary.encode(batch, self.encoder)
        who = self._known.columns(batch, self.encoder.generation)
        self._load(who.names)
        names = list(dict.fromkeys(who.names))
        undo.callback(self._restore, names, self.windows.contexts(names), self.accumulator.sums(names))
        cut = self.windows.cut(who.names, tokens, batch.time)
        nll = self.reconstruction.nll(cut, who.ids, who.group_ids)
        sensitivity = self.bundle.sensitivity.levels(batch, self.encoder)
        excepted = self._excepted(batch, who)
        undo.callback(self.probation.checkpoint(names))
        attributes, week = attribute_hashes(batch, self.encoder), Week.nothing(len(batch))
        if self.bundle.attributes > HASHED:
            attributes = np.concatenate([attributes, hour_hashes(batch.time)[:, None]], axis=1)
            followed = ~is_machinery(classes_of(who.kinds))
            week, forget = observe_week(self.habits, who.name_hashes, batch.time, cut.pauses, followed)
            undo.callback(forget)
        judge = ActionJudge(
            *(calibration, vocabulary, self.habits, self.accumulator, self.probation),
            learning=self.bundle.is_starter,
        )
        judged = judge.judge(
            ActionColumns(
                *(who.names, who.kinds, who.name_hashes, who.group_hashes),
                attributes[:, : self.bundle.attributes],
                tokens,
                batch.time,
                sensitivity,
                nll,
                self._members(who.groups),
                excepted,
                week.strange,
            ),
            undo,
        )
        evidence, threshold, flagged = judged.evidence, judged.threshold, judged.flagged
        hits = flagged.nonzero()[0]
        scores = Scores(
            event=batch.event,
            principal=who.names,
            kind=who.kinds,
            group=who.groups,
            time=batch.time.view("M8[us]"),
            nll=nll,
            surprise=nll.sum(axis=1),
            novelty=judged.novelty,
            error=judged.error,
            evidence=evidence,
            threshold=threshold,
            flagged=flagged,
            sensitivity=np.maximum(sensitivity, 0),
            severity=["none"] * len(batch),
            folded=batch.folded,
            dropped=batch.dropped,
            novelty_evidence=judged.novelty_evidence,
            error_evidence=judged.error_evidence,
            unknown=(tokens[:, _KNOWN_FIELDS] == UNKNOWN).any(axis=1),
            own_actions=judged.known.actions,
            pauses=cut.pauses,
            repeat=judged.repeat,
            first_flagged=np.where(judged.repeat, judged.first.view("M8[us]"), np.datetime64("NaT", "us")),
        )
        adds = (judged.novelty_evidence > 0) | (judged.error_evidence > 0)
        allowed = judged.allowed > 0
        for row in (flagged | adds | allowed).nonzero()[0].tolist():
            scores.novelties[row] = self._novelties(
                batch, row, judged.known, who.groups[row], int(week.days[row])
            )
        rows = allowed.nonzero()[0]
        would_be = self._severities(judged, judged.allowed, who.kinds, sensitivity, rows)
        for row, severity in zip(rows.tolist(), would_be, strict=True):
            name = self.exceptions.entries[excepted[row]].name
            scores.allowed[row] = AllowedAction(
                name, float(judged.allowed[row]), float(threshold[row]), severity
            )
        if len(hits):
            severities = self._severities(judged, evidence, who.kinds, sensitivity, hits)
            log_probs = self.reconstruction.log_probs(cut, who.ids, who.group_ids, hits)
            # Without its own identity the graph falls back on what it knows of the peer group.
            nobody = np.zeros_like(who.ids)
            of_peers = self.reconstruction.log_probs(cut, nobody, who.group_ids, hits)
            for row, hit in enumerate(hits.tolist()):
                scores.severity[hit] = severities[row]
                scores.explanations[hit] = self._explain(
                    batch, hit, nll[hit], (log_probs[row], of_peers[row]), scores.novelties[hit]
                )
        return scores

    def _severities(
        self,
        judged: Judgement,
        evidence: npt.NDArray[np.float64],
        kinds: Sequence[str],
        sensitivity: npt.NDArray[np.int8],
        hits: Ints,
    ) -> list[str]:
        """Severity of some actions, given the evidence of all, float64 [N]."""
        if not len(hits):
            return []
        scale, levels = self.bundle.calibration.severity, sensitivity[hits]
        broad = judged.levels[hits][:, _BROAD_ATTRIBUTES].max(axis=1, initial=0)
        if scale is None:
            times = evidence[hits] / judged.threshold[hits]
            given = zip(times.tolist(), levels.tolist(), broad.tolist(), strict=True)
            return [severity_of(True, *one) for one in given]
        classes = classes_of([kinds[hit] for hit in hits.tolist()])
        rank = scale.rank(classes, levels, judged.deed[hits])
        new = newcomers(classes, judged.known.actions[hits], MATURE)
        ranked = zip(rank.tolist(), levels.tolist(), broad.tolist(), new.tolist(), strict=True)
        return [severity_by_rank(*one) for one in ranked]

    def _members(self, groups: Sequence[str]) -> Ints:
        """Principals of each action's peer group that training knew, int64 [N]; 0 for a calibration that does not ask."""
        if self.bundle.calibration.version < 2:
            return np.zeros(len(groups), np.int64)
        sizes = self.bundle.principals.sizes
        return np.array([sizes.get(group, 0) for group in groups], np.int64)

    def _excepted(self, batch: ActionBatch, who: _Actors) -> Ints:
        """Index of the exception that allows each action; -1 for none."""
        found, rules = none_of(len(batch)), self.exceptions
        if not len(rules):
            return found
        values = [(self.encoder.interners[name].values, batch.codes[name]) for name in DEED]
        for row, (name, group) in enumerate(zip(who.names, who.groups, strict=True)):
            if candidates := rules.covering(name, group):
                deed = [known[codes[row]] for known, codes in values]
                found[row] = rules.match(candidates, int(batch.time[row]), deed)
        return found

    def figures(self) -> Figures:
        """What it holds now; safe to call while it scores."""
        return Figures(
            principals=len(self.windows),
            habits=len(self.habits),
            state_bytes=self.windows.nbytes + self.habits.nbytes,
            cached_windows=self.reconstruction.cache.hits,
            computed_windows=self.reconstruction.cache.misses,
        )

    def _values(self, batch: ActionBatch, row: int) -> dict[str, str]:
        return {
            name: self.encoder.interners[name].values[batch.codes[name][row]] for name in ATTRIBUTE_FIELDS
        }

    def _novelties(
        self, batch: ActionBatch, row: int, known: PriorCounts, group: str, days: int
    ) -> list[HabitReason]:
        values = self._values(batch, row)
        members = self.bundle.principals.sizes.get(group, 0)
        is_member = self.bundle.principals.group_of.get(batch.principals[batch.principal[row]].name) == group
        habits = [
            HabitReason(
                attribute=name,
                value=" ".join(values[part] for part in parts),
                times_before=int(known.own[row, index]),
                actions_before=days if name == HOURS else int(known.actions[row]),
                peers_with=int(known.peers[row, index]),
                peers=max(members - is_member, 0),
                anyone_with=int(known.anyone[row, index]),
            )
            for index, (name, parts) in enumerate(islice(ATTRIBUTES.items(), self.bundle.attributes))
            if not known.own[row, index]
        ]
        habits.sort(key=lambda reason: (reason.peers_with, reason.anyone_with))
        return habits

    def _best(self, name: str, index: int, log_probs: npt.NDArray[np.float32]) -> list[tuple[str, float]]:
        """The values of a field that were expected most, with their probabilities."""
        mine = log_probs[self._starts[index] : self._starts[index + 1]]
        values = self.bundle.vocabulary.tokens[name]
        ranked = ((values[token], float(np.exp(mine[token]))) for token in np.argsort(-mine).tolist())
        return [*islice((one for one in ranked if not is_kind(name, one[0])), _ALTERNATIVES)]

    def _explain(
        self,
        batch: ActionBatch,
        row: int,
        nll: Nll,
        log_probs: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
        habits: list[HabitReason],
    ) -> Explanation:
        values = self._values(batch, row)
        fields = []
        for index in np.argsort(-nll)[:_TOP_FIELDS].tolist():
            name = FIELDS[index]
            expected, of_peers = (self._best(name, index, one) for one in log_probs)
            fields.append(FieldReason(name, values.get(name, ""), float(nll[index]), expected, of_peers))
        rules = self.bundle.sensitivity
        level, why = rules.look_up(tuple(values[name] for name in Sensitivity.FIELDS))
        if (own := rules.own_work) is not None and own.level < level and row in batch.own_work:
            why = own.why
        return Explanation(fields, habits, values, why)


def describe(bundle: Bundle) -> dict[str, Any]:
    """What a user of the model should know about it, for `/v1/model` and the model card."""
    return {
        key: bundle.meta.get(key) for key in ("name", "created", "data", "git_commit", "metrics", "format")
    } | {
        "window": bundle.window,
        "fields": list(FIELDS),
        "principals": len(bundle.principals.ids),
        "budget": dict(bundle.calibration.budget),
    }
