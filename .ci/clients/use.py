"""Uses the client that openapi-python-client makes of the API."""

import io
import os
import uuid

import taskforge_client as api
from taskforge_client import models, types
from taskforge_client.api.plugins import list_plugins, push_plugin, read_plugin_component
from taskforge_client.api.tasks import create_task, read_task, read_task_logs

client = api.AuthenticatedClient(
    base_url=os.environ["TASKFORGE_SERVER"], token=os.environ["TASKFORGE_API_KEY"], timeout=60
)

# What has a default may be left out, and is not sent.
new = models.NewTask(task_type="fibonacci", input_={"n": 10})
assert new.to_dict() == {"task_type": "fibonacci", "input": {"n": 10}}, new.to_dict()
created = create_task.sync(client=client, body=new)
assert isinstance(created, models.Task), created
assert isinstance(created.id, uuid.UUID)
ended = read_task.sync(created.id, client=client, wait="10s")
assert ended.status == models.TaskState.COMPLETED and ended.result == {"result": 55}, ended
assert any(line.event == models.LineKind.COMPLETED for line in read_task_logs.sync(created.id, client=client))

refused = create_task.sync_detailed(client=client, body=models.NewTask(task_type="fibonacci", input_={"n": -1}))
assert refused.status_code == 422 and refused.parsed.errors[0].pointer == "/input/n", refused

# Each handler is of the class of its kind.
handlers = {handler.name: handler for handler in list_plugins.sync(client=client).plugins}
assert isinstance(handlers["fibonacci"], models.Plugin), handlers
assert handlers["fibonacci"].limits.fuel > 0

with open(os.environ["TASKFORGE_COMPONENT"], "rb") as file:
    wasm = file.read()
pushed = push_plugin.sync(
    client=client.with_headers({"content-type": "application/wasm"}), body=types.File(io.BytesIO(wasm))
)
assert isinstance(pushed, models.PluginVersion), pushed
# The same in a form, with settings beside it; those of the version stay as they are.
form = models.PushForm(
    component=types.File(io.BytesIO(wasm), "fibonacci.wasm", "application/wasm"),
    settings=models.PluginSettings(limits=models.Limits(fuel=4711)),
)
again = push_plugin.sync(client=client, body=form)
assert isinstance(again, models.PluginVersion) and "keeps its settings" in again.settings_note, again
read = read_plugin_component.sync("fibonacci", pushed.version, client=client)
assert read.payload.read() == wasm
print("the client in Python works")
