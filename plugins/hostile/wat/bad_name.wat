;; Calls itself "../../../x", which is no task type.
(component
  (core module $plugin
    (memory (export "memory") 1)
    ;; The description: six pointers with lengths. Then their texts, the result of `handle` (tag,
    ;; pointer, length) and its text.
    (data (i32.const 0) "\40\00\00\00\0a\00\00\00" "\4a\00\00\00\05\00\00\00" "\4f\00\00\00\08\00\00\00"
      "\57\00\00\00\02\00\00\00" "\57\00\00\00\02\00\00\00" "\00\00\00\00\00\00\00\00")
    (data (i32.const 64) "../../../x" "1.0.0" " by hand" "{}")
    (data (i32.const 128) "\00\00\00\00\00\00\00\00" "\90\00\00\00\0b\00\00\00" "{\22ok\22:true}")
    (global $top (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $top (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.get $top)
      (global.set $top (i32.add (global.get $top) (local.get 3))))
    (func (export "describe") (result i32) (i32.const 0))
    (func (export "handle") (param i32 i32 i32 i32 i64 i32 i32) (result i32) (i32.const 128)))
  (core instance $p (instantiate $plugin))
  (alias core export $p "memory" (core memory $memory))
  (type $description (record (field "name" string) (field "version" string) (field "summary" string)
    (field "input-schema" string) (field "output-schema" string) (field "capabilities" (list string))))
  (type $task (record (field "id" string) (field "attempt" u32) (field "max-attempts" u32) (field "deadline" u64)
    (field "input" string)))
  (type $retry (variant (case "never") (case "backoff") (case "after" u64)))
  (type $failure (record (field "message" string) (field "retry" $retry)))
  (func $describe (result $description)
    (canon lift (core func $p "describe") (memory $memory)))
  (func $handle (param "task" $task) (result (result string (error $failure)))
    (canon lift (core func $p "handle") (memory $memory) (realloc (core func $p "realloc"))))
  (instance $handler
    (export "description" (type $description)) (export "task" (type $task))
    (export "retry" (type $retry)) (export "failure" (type $failure))
    (export "describe" (func $describe)) (export "handle" (func $handle)))
  (export "taskforge:plugin/handler@0.1.0" (instance $handler)))
