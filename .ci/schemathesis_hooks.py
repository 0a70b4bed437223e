"""What schemathesis does not know by itself: how a component travels."""

import schemathesis


@schemathesis.serializer("application/wasm")
def wasm(ctx, value):
    if isinstance(value, bytes):
        return value
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return bytes(item % 256 for item in value)
    return str(value).encode()
