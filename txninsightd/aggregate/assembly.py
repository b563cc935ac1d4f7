"""Makes the pipeline from the config: the operator's rules, an empty ledger, its figures, and other sinks."""

from collections.abc import Sequence

from txninsightd.config import Config
from txninsightd.core.figures import Figures
from txninsightd.core.ledger import Ledger
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.rules import Objectives, Rules
from txninsightd.core.sinks import Sink
from txninsightd.core.transaction import UNSEEN


def make_pipeline(config: Config, started_at: float, sinks: Sequence[Sink] = ()) -> Pipeline:
    """An empty ledger with the operator's rules, and its sinks. `started_at`: what `start: latest` means."""
    return Pipeline(make_ledger(config, started_at), make_figures(config), sinks)


def make_figures(config: Config) -> Figures:
    """Figures that have counted nothing."""
    return Figures(config.metrics.duration_buckets_s, config.limits.label_values, config.transaction_types)


def make_ledger(config: Config, started_at: float) -> Ledger:
    """An empty ledger with the operator's rules."""
    start_at = {"earliest": UNSEEN, "latest": started_at, "ago": started_at - config.start.ago_s}[config.start.kind]
    return Ledger(make_rules(config), start_at)


def make_rules(config: Config) -> Rules:
    """What the operator decides of the ledger."""
    state, limits, types = config.state, config.limits, config.transaction_types
    return Rules(
        colocated=config.events.colocated,
        settle_lateness_s=state.settle_lateness_s,
        settle_max_s=state.settle_max_s,
        retry_grace_s=state.retry_grace_s,
        linger_s=state.linger_s,
        remember_s=state.remember_s,
        most_lingering=limits.lingering,
        most_remembered=limits.remembered_ids,
        stuck=config.stuck,
        stuck_by_type={name: own.thresholds for name, own in types.items()},
        most_open=limits.open_transactions,
        most_events_each=limits.events_per_transaction,
        most_events=limits.kept_events,
        most_undecided=limits.undecided_records,
        objectives=Objectives(config.objective, {name: own.objective for name, own in types.items()}),
    )
