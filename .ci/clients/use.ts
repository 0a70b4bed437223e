// Uses the types that openapi-typescript makes of the API.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const api = createClient<paths>({
  baseUrl: process.env.TASKFORGE_SERVER,
  headers: { authorization: `Bearer ${process.env.TASKFORGE_API_KEY}` },
});

// What has a default may be left out.
const task: components["schemas"]["NewTask"] = { task_type: "fibonacci", input: { n: 10 } };
const created = await api.POST("/tasks", { body: task });
assert.equal(created.response.status, 201);
const id = created.data!.id;
const ended = await api.GET("/tasks/{id}", { params: { path: { id }, query: { wait: "10s" } } });
assert.equal(ended.data!.status, "completed");
assert.deepEqual(ended.data!.result, { result: 55 });

const log = await api.GET("/tasks/{id}/logs", { params: { path: { id } } });
assert.ok(log.data!.some((line) => line.event === "completed"));

const refused = await api.POST("/tasks", { body: { task_type: "fibonacci", input: { n: -1 } } });
assert.equal(refused.response.status, 422);
assert.equal(refused.error!.errors![0].pointer, "/input/n");

// The kind of a handler tells its type.
const handlers = (await api.GET("/plugins")).data!.plugins;
const described = handlers.map((handler) =>
  handler.kind === "component" ? `${handler.name} ${handler.version} ${handler.paused}` : handler.input_schema,
);
assert.ok(described.some((text) => String(text).startsWith("fibonacci ")));

// Bytes go out as they are.
const wasm = new Blob([readFileSync(process.env.TASKFORGE_COMPONENT!)], { type: "application/wasm" });
const pushed = await api.POST("/plugins", {
  body: wasm as unknown as string,
  bodySerializer: (body) => body as unknown as Blob,
  headers: { "content-type": "application/wasm" },
});
assert.equal(pushed.response.status, 200);
const version = pushed.data!.version;
// The same in a form, with settings beside it; those of the version stay as they are.
const settings = new Blob([JSON.stringify({ limits: { fuel: 4711 } })], { type: "application/json" });
const again = await api.POST("/plugins", {
  body: { component: wasm as unknown as string },
  bodySerializer: () => {
    const form = new FormData();
    form.append("component", wasm);
    form.append("settings", settings);
    return form;
  },
});
assert.match(again.data!.settings_note!, /keeps its settings/);
const read = await api.GET("/plugins/{name}/versions/{version}/component", {
  params: { path: { name: "fibonacci", version } },
  parseAs: "arrayBuffer",
});
assert.equal(read.data!.byteLength, wasm.size);
console.log("the client in TypeScript works");
