"""What a program reads from and writes to the main memory of a device.

As in hlo.py, times the trips of loops. What lies on the chip costs nothing, and of an array of which an instruction
uses or replaces a slice, only the slice counts: a loop over stacked layers does not read all of them in each trip.
"""

from codellama_jax.planning.hlo import HOST, NO_WORK, Instruction, Program


def memory_bytes(program: Program) -> float:
    """Bytes read from and written to main memory. A kernel is counted as reading and writing everything once."""
    return sum(
        times * _traffic(program, computation, instruction)
        for computation, times, how in program.runs
        if how != "fused"
        for instruction in program.computations[computation].values()
    )


def host_bytes(program: Program) -> float:
    """Bytes that a device sends to the memory of its host, or gets from there: what remat policies offload."""
    return sum(
        times * _offloaded(program, computation, instruction)
        for computation, times, _ in program.runs
        for instruction in program.computations[computation].values()
    )


def _offloaded(program: Program, computation: str, instruction: Instruction) -> float:
    if instruction.opcode not in ("copy", "copy-start", "slice", "dynamic-slice", "dynamic-update-slice"):
        return 0.0
    source = program.computations[computation][instruction.operands[0]].shapes[0]
    result = instruction.shapes[0]
    if instruction.opcode == "dynamic-update-slice":
        piece = program.computations[computation][instruction.operands[1]].shapes[0]
        return piece.bytes if result.space == HOST and piece.space != HOST else 0.0
    return result.bytes if (source.space == HOST) != (result.space == HOST) else 0.0


def _traffic(program: Program, computation: str, instruction: Instruction) -> float:
    opcode = instruction.opcode
    if opcode in NO_WORK or opcode.endswith("-done"):
        return 0.0
    if opcode == "custom-call" and instruction.target != "tpu_custom_call":
        return 0.0  # markers of the compiler's own: allocations, barriers
    written = [shape.bytes if shape.space == 0 else 0.0 for shape in instruction.shapes]
    if opcode.endswith("-start"):
        return sum(written)  # source and destination are both in the result
    operands = [program.computations[computation][name].shapes for name in instruction.operands]
    read = [sum(s.bytes for s in shapes if s.space == 0) for shapes in operands]
    if opcode == "fusion":
        fused = instruction.attribute("calls") or ""
        read = [min(whole, _read(program, fused, index)) if whole else 0.0 for index, whole in enumerate(read)]
        pieces = _written(program, fused, program.roots[fused])
        if len(pieces) == len(written):
            written = [min(whole, piece) for whole, piece in zip(written, pieces, strict=True)]
    elif opcode in ("dynamic-slice", "slice", "gather"):
        read[0] = min(read[0], sum(shape.bytes for shape in instruction.shapes))
    elif opcode == "dynamic-update-slice":
        read[0], written = 0.0, [read[1]]
    return sum(read) + sum(written)


def _read(program: Program, fused: str, index: int) -> float:
    """Bytes that a fusion reads of its operand `index`: slices of it, where nothing else is asked for."""
    computation = program.computations[fused]
    parameter = next(i for i in computation.values() if i.opcode == "parameter" and i.text.startswith(f"{index})"))
    return _use(program, fused, parameter)


def _use(program: Program, fused: str, value: Instruction) -> float:
    whole = sum(shape.bytes for shape in value.shapes)
    total = 0.0
    for user in program.computations[fused].values():
        for position, name in enumerate(user.operands):
            if name != value.name:
                continue
            if user.opcode in ("dynamic-slice", "slice", "gather") and position == 0:
                total += sum(shape.bytes for shape in user.shapes)
            elif user is not program.roots[fused] and _same_elements(program, user):
                total += _use(program, fused, user)  # within a fusion what is laid out anew is never written out
            elif user.opcode == "fusion":
                total += _read(program, user.attribute("calls") or "", position)
            elif user.opcode == "dynamic-update-slice" and position == 0:
                pass  # in place: what is not updated is not touched
            else:
                return whole
    return min(whole, total)


def _same_elements(program: Program, instruction: Instruction) -> bool:
    """Whether its result has each element of its operand in its place, whatever the layout."""
    if instruction.opcode == "fusion":
        inner = instruction.attribute("calls") or ""
        works = [i for i in program.computations[inner].values() if i.opcode != "parameter"]
        return len(instruction.operands) == 1 and all(_same_elements(program, i) for i in works)
    return instruction.opcode in ("bitcast", "copy", "convert")


def _written(program: Program, fused: str, root: Instruction) -> list[float]:
    """Bytes that a fusion writes of each of its results: the update alone, where it updates in place."""
    computation = program.computations[fused]
    if root.opcode == "tuple":
        return [piece for name in root.operands for piece in _written(program, fused, computation[name])]
    if root.opcode == "bitcast":
        return _written(program, fused, computation[root.operands[0]])
    if root.opcode == "fusion":
        inner = root.attribute("calls") or ""
        return _written(program, inner, program.roots[inner])
    if root.opcode == "dynamic-update-slice":
        return [computation[root.operands[1]].shapes[0].bytes]
    return [shape.bytes for shape in root.shapes]
