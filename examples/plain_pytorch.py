"""Guided training in a loop of your own: `Guided` turns a batch into a loss."""

import torch
from torch.utils.data import DataLoader

from sightline import Guided, load_model
from sightline.data import Habitats
from sightline.objectives import CE, CFCN, ContextSwap, Scheduled

data = Habitats("train", correlation=0.8, size=24, per_digit=1)
model = load_model("sightline:cnn", num_classes=10, arguments={"filters": [8, 16]})
rising = Scheduled([0, 2], [0, 1], ramp=True)  # weights may be plain numbers, too
guided = Guided(model, [CE(), CFCN("F", weight=rising), ContextSwap()], size=data.size)
optimizer = torch.optim.AdamW(guided.parameters(), lr=3e-3)

for epoch in range(2):
    guided.epoch = epoch  # what the schedule of a weight goes by
    for batch in DataLoader(data, batch_size=64, shuffle=True):
        optimizer.zero_grad()
        loss, terms = guided(batch)
        loss.backward()
        optimizer.step()
    print(epoch, {name: round(float(value), 3) for name, value in terms.items()})
