"""The same objectives with Accelerate, with gradient accumulation and clipping: what it prepares is `Guided`."""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from sightline import Guided, load_model
from sightline.data import Habitats
from sightline.objectives import CE, CFCN, ContextSwap, Scheduled

data = Habitats("train", correlation=0.8, size=24, per_digit=1)
model = load_model("sightline:cnn", num_classes=10, arguments={"filters": [8, 16]})
rising = Scheduled([0, 2], [0, 1], ramp=True)
guided = Guided(model, [CE(), CFCN("F", weight=rising), ContextSwap()], size=data.size)

accelerator = Accelerator(gradient_accumulation_steps=2)
optimizer = torch.optim.AdamW(guided.parameters(), lr=3e-3)
guided, optimizer, loader = accelerator.prepare(guided, optimizer, DataLoader(data, batch_size=32, shuffle=True))

for epoch in range(2):
    accelerator.unwrap_model(guided).epoch = epoch  # of several processes, each wraps its own
    for batch in loader:
        with accelerator.accumulate(guided):
            loss, terms = guided(batch)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(guided.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.print(epoch, {name: round(float(value), 3) for name, value in terms.items()})
