;; Makes $COUNT requests with a path of $BYTES bytes each, in `describe` or in `handle`, whichever
;; the test puts `hold` into.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "fields" (type $fields (sub resource)))
    (export "outgoing-request" (type $request (sub resource)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
    (export "[method]outgoing-request.set-path-with-query"
      (func (param "self" (borrow $request)) (param "path-with-query" (option string)) (result (result))))))
  (core module $memory-of
    (memory (export "memory") 2)
    (global $top (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $top (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.get $top)
      (global.set $top (i32.add (global.get $top) (local.get 3)))))
  (core instance $m (instantiate $memory-of))
  (alias core export $m "memory" (core memory $memory))
  (core func $new-fields (canon lower (func $types "[constructor]fields")))
  (core func $new-request (canon lower (func $types "[constructor]outgoing-request")))
  (core func $set-path
    (canon lower (func $types "[method]outgoing-request.set-path-with-query") (memory $memory)))
  (core module $plugin
    (import "m" "memory" (memory 2))
    (import "h" "new-fields" (func $new-fields (result i32)))
    (import "h" "new-request" (func $new-request (param i32) (result i32)))
    (import "h" "set-path" (func $set-path (param i32 i32 i32 i32) (result i32)))
    (data (i32.const 0) "\40\00\00\00\0b\00\00\00" "\4b\00\00\00\05\00\00\00" "\50\00\00\00\07\00\00\00"
      "\57\00\00\00\02\00\00\00" "\57\00\00\00\02\00\00\00" "\00\00\00\00\00\00\00\00")
    (data (i32.const 64) "hostile-wat" "1.0.0" "by hand" "{}")
    (data (i32.const 128) "\00\00\00\00\00\00\00\00" "\90\00\00\00\0b\00\00\00" "{\22ok\22:true}")
    (func $hold (local $left i32)
      ;; The path lies behind everything else.
      (drop (memory.grow (i32.const 32)))
      (memory.fill (i32.const 65536) (i32.const 120) (i32.const $BYTES))
      (i32.store8 (i32.const 65536) (i32.const 47))
      (local.set $left (i32.const $COUNT))
      (loop $again
        (drop (call $set-path (call $new-request (call $new-fields))
          (i32.const 1) (i32.const 65536) (i32.const $BYTES)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $again (local.get $left))))
    (func (export "describe") (result i32) $IN_DESCRIBE (i32.const 0))
    (func (export "handle") (param i32 i32 i32 i32 i64 i32 i32) (result i32) $IN_HANDLE (i32.const 128)))
  (core instance $p (instantiate $plugin
    (with "m" (instance $m))
    (with "h" (instance
      (export "new-fields" (func $new-fields))
      (export "new-request" (func $new-request))
      (export "set-path" (func $set-path))))))
  (type $description (record (field "name" string) (field "version" string) (field "summary" string)
    (field "input-schema" string) (field "output-schema" string) (field "capabilities" (list string))))
  (type $task (record (field "id" string) (field "attempt" u32) (field "max-attempts" u32) (field "deadline" u64)
    (field "input" string)))
  (type $retry (variant (case "never") (case "backoff") (case "after" u64)))
  (type $failure (record (field "message" string) (field "retry" $retry)))
  (func $describe (result $description)
    (canon lift (core func $p "describe") (memory $memory)))
  (func $handle (param "task" $task) (result (result string (error $failure)))
    (canon lift (core func $p "handle") (memory $memory) (realloc (core func $m "realloc"))))
  (instance $handler
    (export "description" (type $description)) (export "task" (type $task))
    (export "retry" (type $retry)) (export "failure" (type $failure))
    (export "describe" (func $describe)) (export "handle" (func $handle)))
  (export "taskforge:plugin/handler@0.1.0" (instance $handler)))
