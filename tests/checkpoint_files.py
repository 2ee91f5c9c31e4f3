"""safetensors files written by hand from the format's description, whole and broken."""

import json
import pickle
import random
import struct

import numpy as np

NAMES = {
    "float16": "F16", "float32": "F32", "float64": "F64", "int8": "I8", "int64": "I64", "uint8": "U8", "bool": "BOOL",
    "complex64": "C64", "bfloat16": "BF16",
}  # fmt: skip


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors_bytes(tensors, metadata=None):
    """`tensors`: name → array, or (dtype, shape, bytes) for what NumPy has no type for."""
    header, data, end = {} if metadata is None else {"__metadata__": metadata}, [], 0
    for name, value in tensors.items():
        if isinstance(value, np.ndarray):
            value = NAMES[value.dtype.name], value.shape, value.tobytes()
        dtype, shape, stored = value
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(stored)]}
        data.append(stored)
        end += len(stored)
    return with_header(header, b"".join(data))


def save_safetensors(path, tensors, metadata=None):
    path.write_bytes(safetensors_bytes(tensors, metadata))
    return path


def save_shards(folder, shards, name="model.safetensors.index.json", **changes):
    """Files of shards, and their index with some entries changed."""
    folder.mkdir(exist_ok=True)
    weight_map = {tensor: shard for shard, tensors in shards.items() for tensor in tensors} | changes
    for shard, tensors in shards.items():
        save_safetensors(folder / shard, tensors)
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return folder


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BROKEN = {
    "empty": (b"", "has 0 bytes; expected a safetensors file"),
    "length alone": (struct.pack("<Q", 0), "the header begins with b''; expected a JSON object"),
    "length beyond the file": (struct.pack("<Q", 100) + b"{}", "the header's length is 100; expected at most 2"),
    "huge length": (struct.pack("<Q", 2**64 - 1) + b"{}", "the header's length is 18446744073709551615"),
    "no JSON": (with_header(b"{nothing"), "no JSON object"),
    "a list": (with_header(b"[1, 2]"), "the header begins with"),
    "two objects": (with_header(b"{}{}"), "no JSON object"),
    "no UTF-8": (with_header(b'{"\xff": 1}'), r"no UTF-8 \(invalid start byte at byte 2\)"),
    "deep": (with_header(b'{"a":' + b"[" * 200_000), "nested too deeply|no JSON object"),
    "a number of 5000 digits": (with_header(b'{"a":' + b"9" * 5000 + b"}"), "no JSON object"),
    "twice": (with_header(b'{"a": {"dtype": "F32"}, "a": {"dtype": "F32"}}'), "'a' is there twice"),
    "metadata": (with_header({"__metadata__": {"a": 1}}), r"__metadata__ is {'a': 1}; expected texts"),
    "no object": (with_header({"a": 3}), "'a' is 3; expected dtype, shape and data_offsets"),
    "a key too few": (with_header({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "expected dtype, shape and"),
    "a key too many": (with_header({"a": entry() | {"code": 1}}, bytes(8)), "expected dtype, shape and"),
    "dtype": (with_header({"a": entry("float32")}, bytes(8)), "has dtype 'float32'; expected one of BOOL"),
    "dtype no text": (with_header({"a": entry(["F32"])}, bytes(8)), r"has dtype \['F32'\]"),
    "negative extent": (with_header({"a": entry(shape=(-2,))}, bytes(8)), r"has shape \[-2\]; expected at most 32"),
    "fractional extent": (with_header({"a": entry(shape=(2.0,))}, bytes(8)), r"has shape \[2\.0\]"),
    "boolean extent": (with_header({"a": entry(shape=(True, 2))}, bytes(8)), r"has shape \[True, 2\]"),
    "many extents": (with_header({"a": entry(shape=(1,) * 31 + (2, 1))}, bytes(8)), "expected at most 32 integers"),
    "overflow": (with_header({"a": entry(shape=(2**32, 2**32), offsets=(0, 0))}), "expected 73786976294838206464"),
    "huge extent": (with_header({"a": entry(shape=(2**64,))}, bytes(8)), r"has shape \[18446744073709551616\]"),
    "negative offset": (with_header({"a": entry(offsets=(-8, 0))}, bytes(8)), r"has data_offsets \[-8, 0\]; "),
    "huge offset": (with_header({"a": entry(offsets=(0, 2**70))}, bytes(8)), "has data_offsets .*; expected two"),
    "one offset": (with_header({"a": entry(offsets=(8,))}, bytes(8)), r"has data_offsets \[8\]; expected two"),
    "reversed": (with_header({"a": entry(offsets=(8, 0))}, bytes(8)), "expected them in order and within the 8 bytes"),
    "truncated": (with_header({"a": entry()}, bytes(7)), "within the 7 bytes of data that the file has"),
    "size": (with_header({"a": entry(shape=(3,))}, bytes(8)), r"has 8 bytes; expected 12 for shape \[3\] and"),
    "half bytes": (with_header({"a": entry("F4", (3,), (0, 1))}, bytes(1)), "has 1 bytes; expected 1 for shape"),
    "overlap": (with_header({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "'b' begins at byte 4 and over"),
    "same span": (with_header({"a": entry(), "b": entry()}, bytes(8)), "'b' begins at byte 0 and overlaps with 'a'"),
    "hole": (with_header({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "hole after 'a'; expected byte 8"),
    "late begin": (with_header({"a": entry(offsets=(4, 12))}, bytes(12)), "leaves a hole after the data's begin"),
    "rest": (with_header({"a": entry()}, bytes(9)), "the tensors end at byte 8 of the data; expected 9"),
    "a pickle": (pickle.dumps([1, 2, 3, 4, 5, 6]), "no safetensors file"),
}  # fmt: skip


VALUES = [
    None,
    True,
    -1,
    0,
    1,
    7,
    2**31,
    2**53,
    2**63,
    2**64,
    1e400,
    -0.5,
    "",
    "F32",
    "BF16",
    "F4",
    "\ud800",
    [],
    [0],
    {},
]


def mutated_value(random_, value):
    """A value changed somewhere inside."""
    if isinstance(value, dict) and value and random_.random() < 0.8:
        key = random_.choice(list(value))
        kind = random_.random()
        if kind < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if kind < 0.2:
            return value | {random_.choice(["", "__metadata__", "x", "shape"]): value[key]}
        return value | {key: mutated_value(random_, value[key])}
    if isinstance(value, list) and value and random_.random() < 0.8:
        index = random_.randrange(len(value))
        return [*value[:index], mutated_value(random_, value[index]), *value[index + (random_.random() < 0.8) :]]
    if isinstance(value, int) and random_.random() < 0.5:
        return value + random_.choice([-8, -4, -1, 1, 4, 8, 2**32])
    return random_.choice(VALUES)


def mutated_bytes(random_, content):
    """Bytes changed, cut out, doubled or cut off, most of them in the header."""
    content = bytearray(content)
    for _ in range(random_.randint(1, 3)):
        place = random_.randrange(8 if random_.random() < 0.2 else len(content))
        kind = random_.randrange(5)
        if kind == 0:
            del content[place:]
        elif kind == 1:
            del content[place : place + random_.randint(1, 9)]
        elif kind == 2:
            content[place:place] = content[place : place + random_.randint(1, 40)]
        else:
            content[place : place + 1] = random_.choice(
                [b'"', b"{", b"]", b"-", b"9", b"\xff", b"\0", random_.randbytes(1)]
            )
        if not content:
            return b""
    return bytes(content)


def broken_headers(count, seed=20261129):
    random_ = random.Random(seed)
    tensors = {"a.weight": np.ones((3, 2), np.float32), "b": np.ones(4, np.float16), "c": np.array(1.0)}
    whole = safetensors_bytes(tensors, {"format": "pt"})
    length = struct.unpack("<Q", whole[:8])[0]
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for index in range(count):
        if index % 2:
            yield mutated_bytes(random_, whole)
        else:
            changed = header
            for _ in range(random_.randint(1, 2)):
                changed = mutated_value(random_, changed)
            yield with_header(changed, data)
