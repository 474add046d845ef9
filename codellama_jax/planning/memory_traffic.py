"""Bytes that a program reads from and writes to the main memory of a device.

As in hlo.py, instructions in loops are counted once per trip. Arrays in on-chip memory are not counted. If an
instruction reads or updates a slice of an array, only the slice counts: an iteration of the loop over stacked layers
reads one layer. The pages that attention to a cache reads are not counted, because they depend on the texts.
"""

from codellama_jax.planning.hlo import HOST_MEMORY, ZERO_COST, Instruction, Program

PAGED_KERNEL = "ragged_paged_attention"  # its last operand is the pages of a layer


def memory_bytes(program: Program) -> float:
    """Bytes read from and written to main memory. A kernel reads its operands and writes its results once."""
    return sum(
        times * _traffic(program, computation, instruction)
        for computation, times, mode in program.executions
        if mode != "fused"
        for instruction in program.computations[computation].values()
    )


def host_bytes(program: Program) -> float:
    """Bytes transferred between a device and the memory of its host: the activations that remat policies offload."""
    return sum(
        times * _host_transfer(program, computation, instruction)
        for computation, times, _ in program.executions
        for instruction in program.computations[computation].values()
    )


def _host_transfer(program: Program, computation: str, instruction: Instruction) -> float:
    if instruction.opcode not in ("copy", "copy-start", "slice", "dynamic-slice", "dynamic-update-slice"):
        return 0.0
    source = program.computations[computation][instruction.operands[0]].shapes[0]
    result = instruction.shapes[0]
    if instruction.opcode == "dynamic-update-slice":
        update = program.computations[computation][instruction.operands[1]].shapes[0]
        return update.bytes if result.space == HOST_MEMORY and update.space != HOST_MEMORY else 0.0
    return result.bytes if (source.space == HOST_MEMORY) != (result.space == HOST_MEMORY) else 0.0


def _traffic(program: Program, computation: str, instruction: Instruction) -> float:
    opcode = instruction.opcode
    if opcode in ZERO_COST or opcode.endswith("-done"):
        return 0.0
    if opcode == "custom-call" and instruction.target != "tpu_custom_call":
        return 0.0  # internal markers of the compiler: allocations, barriers
    written = [shape.bytes if shape.space == 0 else 0.0 for shape in instruction.shapes]
    if opcode.endswith("-start"):
        return sum(written)  # the result contains both source and destination
    operands = [program.computations[computation][name].shapes for name in instruction.operands]
    read = [sum(s.bytes for s in shapes if s.space == 0) for shapes in operands]
    if opcode == "fusion":
        fused = instruction.attribute("calls") or ""
        read = [min(size, _bytes_read(program, fused, index)) if size else 0.0 for index, size in enumerate(read)]
        updates = _bytes_written(program, fused, program.roots[fused])
        if len(updates) == len(written):
            written = [min(size, update) for size, update in zip(written, updates, strict=True)]
    elif opcode in ("dynamic-slice", "slice", "gather"):
        read[0] = min(read[0], sum(shape.bytes for shape in instruction.shapes))
    elif opcode == "dynamic-update-slice":
        read[0], written = 0.0, [read[1]]
    elif opcode == "scatter":
        read[0], written = 0.0, [read[-1]]
    elif instruction.name.startswith(PAGED_KERNEL):
        read[-1] = 0.0
    return sum(read) + sum(written)


def _bytes_read(program: Program, fused: str, index: int) -> float:
    """Bytes that a fusion reads of its operand `index`: only slices of it if every use is a slice."""
    computation = program.computations[fused]
    parameter = next(i for i in computation.values() if i.opcode == "parameter" and i.text.startswith(f"{index})"))
    return _bytes_used(program, fused, parameter)


def _bytes_used(program: Program, fused: str, value: Instruction) -> float:
    size = sum(shape.bytes for shape in value.shapes)
    total = 0.0
    for user in program.computations[fused].values():
        for position, name in enumerate(user.operands):
            if name != value.name:
                continue
            if user.opcode in ("dynamic-slice", "slice", "gather") and position == 0:
                total += sum(shape.bytes for shape in user.shapes)
            elif user is not program.roots[fused] and _same_elements(program, user):
                total += _bytes_used(program, fused, user)  # layout changes within a fusion are not written to memory
            elif user.opcode == "fusion":
                total += _bytes_read(program, user.attribute("calls") or "", position)
            elif user.opcode in ("dynamic-update-slice", "scatter") and position == 0:
                pass  # in place: elements that are not updated are not accessed
            else:
                return size
    return min(size, total)


def _same_elements(program: Program, instruction: Instruction) -> bool:
    """Whether the result is the operand elementwise, possibly with another layout or dtype."""
    if instruction.opcode == "fusion":
        inner = instruction.attribute("calls") or ""
        operations = [i for i in program.computations[inner].values() if i.opcode != "parameter"]
        return len(instruction.operands) == 1 and all(_same_elements(program, i) for i in operations)
    return instruction.opcode in ("bitcast", "copy", "convert")


def _bytes_written(program: Program, fused: str, root: Instruction) -> list[float]:
    """Bytes that a fusion writes for each of its results: only the update if it updates in place."""
    computation = program.computations[fused]
    if root.opcode == "tuple":
        return [size for name in root.operands for size in _bytes_written(program, fused, computation[name])]
    if root.opcode == "bitcast":
        return _bytes_written(program, fused, computation[root.operands[0]])
    if root.opcode == "fusion":
        inner = root.attribute("calls") or ""
        return _bytes_written(program, inner, program.roots[inner])
    if root.opcode == "scatter":
        return [computation[root.operands[-1]].shapes[0].bytes]
    if root.opcode == "dynamic-update-slice":
        return [computation[root.operands[1]].shapes[0].bytes]
    return [shape.bytes for shape in root.shapes]
