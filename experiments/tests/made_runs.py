"""Runs made up for tests of what is said about runs."""

import lnb_experiments as ex


def made_run(
    optimizer="adamw",
    task="digits",
    rate=0.1,
    seed=0,
    losses=(2.0, 1.0, 0.5),
    validation=None,
    accuracies=(0.1, 0.8, 0.9),
    milliseconds=10.0,
    epochs=2,
    cost=None,
    **changes,
):
    """A record every ten steps, one epoch; `validation` is the training loss where it is not given."""
    selection = ex.find_task(task).selection
    records = []
    for i, (loss, held_out) in enumerate(zip(losses, validation or losses, strict=True)):
        metrics = {selection: held_out} | ({"accuracy": accuracies[i]} if accuracies else {})
        records.append(ex.Record(10 * i, float(i), milliseconds * i / 100, milliseconds if i else None, loss, metrics))
    header = {
        "task": task,
        "optimizer": optimizer,
        "task_settings": {"hidden": [8]},
        "optimizer_settings": {"learning_rate": rate, "ridge": 1.0},
        "seed": seed,
        "scale": "cpu",
        "epochs": epochs,
        "evaluate_every": 10,
        "schedule": "constant",
        "target": ex.find_task(task).target,
        "comparison": f"{optimizer} {rate} {seed}",
        "environment": {"commit": "abc", "versions": {"jax": "1"}},
        "command": f"lnb compare {task} --optimizers {optimizer} --learning-rate {optimizer}={rate} --seed {seed}",
    }
    return ex.Run(ex.RunHeader(**{**header, **changes}), tuple(records), cost or ex.Cost(1.5, 2_000_000, 3_000_000))


def write(run, path):
    with ex.RecordWriter(path, run.header) as writer:
        for record in run.records:
            writer.write(record)
        if run.cost is not None:
            writer.write_cost(run.cost)
    return path
