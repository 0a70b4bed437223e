-- Caps have one owner, the claim: it counts what runs and takes no more than is left. There is one
-- writer, so the count in its transaction is exact.

-- The versions of plugins that ask for a cap: few.
create index plugin_versions_capped on plugin_versions (plugin)
    where limits ->> 'concurrency' is not null;

-- The caps in force, of a task type or of a tenant. Of a type's own cap and those that the running
-- versions of its plugin ask for, the lowest counts.
create view caps as
    select task_type, null as tenant, min(max_running) as max_running
    from (select task_type, max_running from type_policies where max_running is not null
          union all
          select plugins.name, limits ->> 'concurrency'
          from plugin_versions indexed by plugin_versions_capped
          join plugins on plugins.name = plugin_versions.plugin
                      and plugin_versions.id in (plugins.stable, plugins.canary)
          where limits ->> 'concurrency' is not null)
    group by task_type
    union all
    select null, tenant, max_running from tenant_policies where max_running is not null;
