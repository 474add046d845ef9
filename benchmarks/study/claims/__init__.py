"""The claims of the paper, one file for each kind."""

from study.claim import Claim
from study.claims import infilling, instruction, keys, pretraining, rope, sampling, scaling, settings, specialisation

CLAIMS: tuple[Claim, ...] = (
    pretraining.CLAIM,
    specialisation.CLAIM,
    infilling.COST,
    infilling.USE,
    rope.CLAIM,
    keys.CLAIM,
    instruction.SELF_INSTRUCT,
    instruction.REHEARSAL,
    sampling.CLAIM,
    scaling.CLAIM,
    settings.CLAIM,
)
