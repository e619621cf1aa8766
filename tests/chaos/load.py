"""Clients that work the server without a pause: chats, uploads, batches, trainings, judgements."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import openai

from tests.chaos.ledger import USE_CASE, Document, Ledger, client_of
from tests.chaos.processes import ServerProcess
from tests.serve.test_fine_tuning import BASE, rows

MAY_FAIL = {"loading", "stopping", "engine_unavailable", "queue_full"}
"""Codes of 503 and 429 that a client may get from a server that comes or goes; no other error is one it must see."""

STORE_FILES = 30
"""A store that has so many is left alone."""

FILLER = "The pump in the hall is looked after every week by the people of the house. "


class Load:
    """Threads that go on until `stop`, through every death of the server."""

    def __init__(
        self,
        server: ServerProcess,
        ledger: Ledger,
        seed: int,
        *,
        work: Sequence[str],
        models: Sequence[str],
        trainings: int = 0,
    ) -> None:
        """
        Args:
            work: what each thread does: chat, upload, batch, respond, train.
            models: names to chat with.
            trainings: fine-tuning jobs to ask for in all, two at a time.
        """
        self._server = server
        self._ledger = ledger
        self._stopping = threading.Event()
        self._trainings = trainings
        self._models = models
        steps = {
            "chat": self._chat,
            "upload": self._upload,
            "batch": self._batch,
            "respond": self._respond,
            "train": self._train,
        }
        self._threads = [
            threading.Thread(target=self._go_on, args=(steps[step], random.Random(seed * 100 + n)), name=f"load-{n}")
            for n, step in enumerate(work)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _go_on(self, step: Callable[[openai.OpenAI, random.Random], None], rng: random.Random) -> None:
        while not self._stopping.is_set():
            url = self._server.url
            if url is not None:
                try:
                    with client_of(url) as client:
                        while not self._stopping.wait(rng.uniform(0.05, 0.3)):
                            step(client, rng)
                except (openai.APIConnectionError, httpx.TransportError):
                    pass  # killed under our hands: what was not answered was not acknowledged
                except openai.APIStatusError as exc:
                    if exc.code not in MAY_FAIL:
                        self._ledger.say(f"{step.__name__}: {exc}")
                except openai.APIError as exc:
                    # An error in mid-stream.
                    if exc.code not in MAY_FAIL:
                        self._ledger.say(f"{step.__name__}: {exc}")
                except Exception as exc:  # noqa: BLE001 - a thread's failure must reach the report
                    self._ledger.say(f"{step.__name__}: {type(exc).__name__}: {exc}")
            self._stopping.wait(0.2)

    def _chat(self, client: openai.OpenAI, rng: random.Random) -> None:
        model = rng.choice(self._models)
        said = f"Say {rng.random()} " + "and more " * rng.randrange(20)
        messages: Any = [{"role": "user", "content": said}]
        text, reason = "", None
        with client.chat.completions.create(model=model, messages=messages, stream=True, max_tokens=64) as stream:
            request = stream.response.headers["x-request-id"]
            for chunk in stream:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    reason = choice.finish_reason or reason
        if reason is None:
            return  # cut off; a client sees that by the missing reason
        if self._server.scripted and said.strip() not in text:
            self._ledger.say(f"asked {said!r}, answered {text!r}")
        with self._ledger.lock:
            self._ledger.chats += 1
        if model == USE_CASE:
            body = {"request_id": request, "rating": "good"}
            client.post(f"/use_cases/{USE_CASE}/feedback", body=body, cast_to=object)
            self._ledger.feedback.append(request)

    def _upload(self, client: openai.OpenAI, rng: random.Random) -> None:
        word = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(6))
        text = f"About {word}.\n\nThe {word} is kept in room {rng.randrange(1000)}.\n\n" + FILLER * rng.randrange(60)
        id = client.files.create(file=(f"{word}.txt", text.encode()), purpose="assistants").id
        self._ledger.documents[id] = Document(word, text)
        if rng.random() < 0.1:
            self._ledger.doubtful.add(id)
            client.files.delete(id)
            self._ledger.deleted.add(id)
            self._ledger.doubtful.discard(id)

    def _batch(self, client: openai.OpenAI, rng: random.Random) -> None:
        ledger = self._ledger
        members = {store: [id for of, id in ledger.members if of == store] for store in ledger.stores}
        fillable = [store for store in ledger.stores if len(members[store]) < STORE_FILES]
        if len(fillable) < 2:
            ledger.stores.append(client.vector_stores.create(name="chaos").id)
            return
        store = rng.choice(fillable)
        mine = members[store]
        free = [id for id in list(ledger.documents) if id not in ledger.gone() and id not in mine]
        if not free:
            return
        chosen = rng.sample(free, min(3, len(free)))
        ledger.asked.update((store, id) for id in chosen)
        try:
            batch = client.vector_stores.file_batches.create(store, file_ids=chosen)
        except openai.NotFoundError:
            return  # one was deleted in between
        ledger.batches.append((store, batch.id))
        ledger.members.update((store, id) for id in chosen)
        self._stopping.wait(rng.uniform(0, 3))

    def _respond(self, client: openai.OpenAI, rng: random.Random) -> None:
        response = client.responses.create(model=self._models[0], input=f"Say {rng.random()}", max_output_tokens=16)
        self._ledger.responses.append(response.id)

    def _train(self, client: openai.OpenAI, rng: random.Random) -> None:
        ledger = self._ledger
        under_way = [id for id in ledger.jobs if client.fine_tuning.jobs.retrieve(id).status in ("queued", "running")]
        if len(ledger.jobs) >= self._trainings or len(under_way) >= 2:
            return
        data = rows(16 + rng.randrange(8))
        file = client.files.create(file=("rows.jsonl", data), purpose="fine-tune").id
        ledger.rows[file] = data
        options: Any = {"n_epochs": 1, "batch_size": 4}
        job = client.fine_tuning.jobs.create(model=BASE, training_file=file, hyperparameters=options)
        ledger.jobs.append(job.id)
