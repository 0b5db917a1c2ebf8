"""The average of weights, compared with its formula."""

from __future__ import annotations

import torch
from torch import nn

from trainers.averaging import WarmedUpAverage


def test_the_average_follows_its_formula_and_copies_counters() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    average = WarmedUpAverage(network, torch.device("cpu"), decay=0.3)
    weight, mean = network[0].weight, network[1].running_mean
    expected_weight = expected_mean = None
    for step in range(6):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
        network(torch.randn(4, 1, 8, 8))
        average.update_parameters(network)
        decay = 0.0 if step == 0 else min(0.3, (1 + step) / (10 + step))
        if expected_weight is None:
            expected_weight, expected_mean = weight.detach().clone(), mean.clone()
        else:
            expected_weight = decay * expected_weight + (1 - decay) * weight.detach()
            expected_mean = decay * expected_mean + (1 - decay) * mean
    torch.testing.assert_close(average.module[0].weight, expected_weight)
    torch.testing.assert_close(average.module[1].running_mean, expected_mean)
    assert average.module[1].num_batches_tracked == network[1].num_batches_tracked == 6
    assert average.n_averaged == 6


def test_an_average_goes_on_from_its_stored_state() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    averages = [WarmedUpAverage(network, torch.device("cpu"), decay=0.9) for _ in range(2)]
    for step in range(8):
        with torch.no_grad():
            network.weight.add_(torch.randn(2, 3))
        averages[0].update_parameters(network)
        if step == 3:
            averages[1].load_state_dict(averages[0].state_dict())
        elif step > 3:
            averages[1].update_parameters(network)
    torch.testing.assert_close(averages[0].module.weight, averages[1].module.weight)
    assert averages[0].n_averaged == averages[1].n_averaged == 8
