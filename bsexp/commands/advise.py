"""`bsexp advise`: which schedule suits this model, data set and machine, found out by trials.

The one rule: everything is refused before anything is trained, each trial is kept as it ends, and what is said is made
from the kept files alone; run again, the command goes on where it was.
"""

from pathlib import Path
from typing import Any

from bsexp.commands.advised_batches import add_seeds, try_batches, try_growth
from bsexp.commands.advised_rate import find_constant, find_rate
from bsexp.commands.given import numbers_of, talk_of, values_of
from bsexp.commands.machines import machine_of
from bsexp.commands.measure import options_of, place_of, surroundings_of
from bsexp.commands.trying import Job
from bsexp.store.advised import alone
from bsexp.sweep.advising import Question
from bsexp.sweep.devices import default_model
from bsexp.sweep.signals import StopSignals


def main(given: dict[str, Any]) -> int:
    """Make what trials are missing, judge them, write advice.json and its files, print what is advised.

    UsageError where the minutes don't suffice, or a table lacks a batch size; nothing was trained then.
    """
    talk = talk_of(given)
    values = values_of(given)
    surroundings = surroundings_of(values)
    options = options_of(values)
    options.setdefault("model", default_model(options["dataset"], surroundings.device))
    lr = options.pop("lr", None)
    question = Question(options)
    machine = machine_of({name: values[name] for name in ("hardware",) if name in values})
    workers = tuple(sorted({1, *numbers_of(values.get("workers", "1"))}))
    place = place_of(values, "advise")
    with StopSignals(), alone(place):
        job = Job(question, place, surroundings, values, talk)
        here = job.measured(workers)
        tables, notes = {"here": here}, []
        if machine:
            from bsexp.report.timing import other_network

            # Two CPUs are both called cpu; then the file tells them apart.
            label, file = machine.table.device, Path(values["hardware"])
            name = label if label != here.device else file.stem if file.stem not in tables else file.name
            tables[name] = machine.table
            notes = other_network(machine, job.settings["model"], job.settings["dataset"])
            for note in notes:
                talk.warn(note)
        job.check_tables(tables, workers)
        job.prepare(lr)
        rate = lr if lr is not None else find_rate(job)
        job.begin_with(rate, lr is None)
        points = try_batches(job, rate)
        find_constant(job, rate)
        try_growth(job, rate, points)
        add_seeds(job, rate, list(tables.values()), workers)
        job.trunks.forget()
        from bsexp.commands.advice import tell_advice

        return tell_advice(job, rate, points, tables, workers, notes)
