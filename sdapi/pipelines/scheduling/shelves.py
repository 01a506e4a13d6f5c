"""Everything that jobs are drawn with, and that comes into memory and leaves it."""

from __future__ import annotations

from dataclasses import dataclass

from sdapi.catalog import ModelBroken
from sdapi.domain.generation import Text2Video, Upscale
from sdapi.domain.models_in_memory import ModelsInMemory
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.leases import Leases
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.scheduling.models import Model
from sdapi.pipelines.scheduling.tickets import Ticket
from sdapi.pipelines.upscalers.face_shelf import FaceShelf
from sdapi.pipelines.upscalers.kinds import Upscaler
from sdapi.pipelines.words.translations import Translations


@dataclass(frozen=True)
class Shelves:
    """They share one memory. For use from the device thread only, but for `state`."""

    models: Residency[Model]
    control_nets: Residency[ControlNetwork]
    upscalers: Residency[Upscaler]
    faces: FaceShelf | None = None
    translations: Translations | None = None

    @classmethod
    def of(
        cls,
        models: Residency[Model],
        control_nets: Residency[ControlNetwork] | None = None,
        upscalers: Residency[Upscaler] | None = None,
        faces: FaceShelf | None = None,
        translations: Translations | None = None,
    ) -> Shelves:
        """None for what no request names."""
        memory = models.memory
        nets = control_nets if control_nets is not None else Residency(_no_control_net, memory)
        return cls(models, nets, upscalers if upscalers is not None else Residency(_no_upscaler, memory), faces, translations)

    @property
    def memory(self) -> Memory:
        """What they share."""
        return self.models.memory

    @property
    def state(self) -> ModelsInMemory:
        """What is in memory and what is on its way; any thread may look. Upscalers are told by `upscaler_entry`."""
        return self.models.state.with_upscalers(self.upscalers.state)

    def leases_for(self, ticket: Ticket) -> Leases[Model]:
        """For what the ticket needs; nothing is taken yet."""
        request = ticket.request
        additions = (lambda _: None) if isinstance(request, Upscale | Text2Video) else (lambda model: model.additions(request))
        restores_faces = isinstance(request, Upscale) and request.face_enhance
        faces = self.faces.lease() if restores_faces and self.faces is not None else None
        return Leases(self.models, self.control_nets, additions, self.upscalers, faces)

    def clear(self) -> int:
        """Forget what nobody uses, and what could be made again; how many bytes it took."""
        freed = sum(model.clear_caches() for model in self.models.models)
        freed += self.models.evict_idle() + self.control_nets.evict_idle() + self.upscalers.evict_idle()
        freed += 0 if self.translations is None else self.translations.clear()
        return freed + (0 if self.faces is None else self.faces.clear())

    def close(self) -> None:
        """Bring nothing more and forget everything."""
        self.memory.close_host()
        self.models.close()
        self.control_nets.close()
        self.upscalers.close()
        if self.faces is not None:
            self.faces.close()
        if self.translations is not None:
            self.translations.close()


def _no_control_net(net_id: str) -> ControlNetwork:
    raise ModelBroken(net_id, f"There is no control net named {net_id!r} on this server.")


def _no_upscaler(upscaler_id: str) -> Upscaler:
    raise ModelBroken(upscaler_id, f"There is no upscaler named {upscaler_id!r} on this server.")
