"""Encoder and searcher of this process, as the API wants them."""

from __future__ import annotations

from skillmatch_ray.serving.services import EncoderService, RetrieverService


class Local:
    """Encoder and searcher of this process, as the API wants them."""

    def __init__(self, config) -> None:
        self.index = RetrieverService(config)
        self.encoder = EncoderService(config, threads=1)

    async def encode(self, project):
        return self.encoder.encode([project])[0]

    async def encode_freelancer(self, freelancer):
        return self.encoder.encode_freelancer(freelancer)

    async def explain(self, *arguments):
        return self.encoder.explain(*arguments)

    async def fingerprint(self):
        return self.encoder.fingerprint

    async def search(self, *arguments):
        return self.index.search(*arguments)

    async def similar(self, *arguments):
        return self.index.similar(*arguments)

    async def profiles(self, *arguments):
        return self.index.profiles(*arguments)

    async def upsert(self, *arguments):
        return self.index.upsert(*arguments)

    async def delete(self, *arguments):
        return self.index.delete(*arguments)

    async def release(self, *arguments):
        return self.index.release(*arguments)

    async def releases(self):
        return self.index.releases()

    async def status(self):
        return self.index.status()

    async def operate(self, order):
        return self.index.operate(order)

    async def operation(self, operation_id):
        return self.index.operation(operation_id)
