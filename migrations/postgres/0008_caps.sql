-- Caps have one owner, the claim: it counts what runs of a capped name under that name's lock, and
-- takes no more than is left. Nothing else keeps a count, so none can drift.

-- What runs of a name. A count costs as many entries as run.
create index tasks_capped on tasks (tenant, task_type) where state = 'running';

-- The rows that name a cap.
create index type_policies_capped on type_policies (task_type) where max_running is not null;
create index tenant_policies_capped on tenant_policies (tenant) where max_running is not null;
create index plugin_versions_capped on plugin_versions (plugin)
    where (limits::jsonb ->> 'concurrency') is not null;

-- The caps in force, of a task type or of a tenant. Of a type's own cap and those that the running
-- versions of its plugin ask for, the lowest counts.
create view caps as
    select task_type, null::text collate "C" as tenant, min(max_running) as max_running
    from (select task_type, max_running from type_policies where max_running is not null
          union all
          select plugins.name, (limits::jsonb ->> 'concurrency')::bigint
          from plugin_versions
          join plugins on plugins.name = plugin_versions.plugin
                      and plugin_versions.id in (plugins.stable, plugins.canary)
          where (limits::jsonb ->> 'concurrency') is not null) as asked
    group by task_type
    union all
    select null, tenant, max_running from tenant_policies where max_running is not null;

-- Whether there may be any: what most claims want to know and no more.
create function taskforge_may_have_caps() returns boolean
language sql stable as $$
    select exists (select from tenant_policies where max_running is not null)
        or exists (select from type_policies where max_running is not null)
        or exists (select from plugin_versions where (limits::jsonb ->> 'concurrency') is not null)
$$;

-- The permits that are left of these types' and tenants' caps; what has no cap is left out. Until
-- the transaction ends nobody else gets an answer that concerns one of them.
--
-- The names share 64 locks, which are taken in order, so that a claim of a thousand tenants neither
-- fills the table of locks nor waits in a circle. The statement after the lock has a snapshot of
-- its own, in which the claims that held the lock before are committed. The settings make each
-- count a plain scan of an index, which skips entries that it has once found dead.
create function taskforge_permits(types text[], tenants text[])
returns table (task_type text, tenant text, permits bigint)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = on
set max_parallel_workers_per_gather = 0
as $$
#variable_conflict use_column
begin
    perform pg_advisory_xact_lock(hashtext('taskforge.caps'), slot)
    from (select distinct hashtext(coalesce('type ' || task_type, 'tenant ' || tenant)) & 63 as slot
          from caps where task_type = any (types) or tenant = any (tenants)
          order by slot) as slots;
    if not found then
        return;
    end if;
    -- A claim that a crash of the database undoes leaves its tasks running, and would free their
    -- permits.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    return query
        select task_type, null, greatest(max_running - (
            select count(*) from tasks where state = 'running' and tasks.task_type = caps.task_type), 0)
        from caps where task_type = any (types)
        union all
        select null, caps.tenant, greatest(max_running - coalesce(running.count, 0), 0)
        from caps
        left join (
            select tasks.tenant, count(*) from tasks
            where state = 'running' and tasks.tenant = any (tenants) group by tasks.tenant
        ) as running on running.tenant = caps.tenant
        where caps.tenant = any (tenants);
end
$$;

-- Of these tasks, those that a claim must leave: there is no permit for them. The earlier a task is
-- named, the sooner it gets one. While there are caps, this also names what is not pending, so that
-- nothing is taken that was not counted. `low` and `high` are the least and the greatest of the
-- ids.
create function taskforge_over_caps(ids uuid[], low uuid, high uuid) returns setof uuid
language plpgsql
set max_parallel_workers_per_gather = 0
as $$
begin
    if not taskforge_may_have_caps() then
        return;
    end if;
    return query
        with asked as materialized (
            select named.id, named.place, tasks.tenant, tasks.task_type
            from unnest(ids) with ordinality as named (id, place)
            join tasks on tasks.id = named.id
            where tasks.id = any (ids) and tasks.id between low and high
              and coalesce(tasks.state, '') = 'pending'
        ), permits as materialized (
            select * from taskforge_permits(array(select distinct task_type from asked),
                                            array(select distinct tenant from asked))
        ), open as (
            select asked.*, of_tenant.permits as tenant_permits, of_type.permits as type_permits
            from asked
            left join permits as of_tenant on of_tenant.tenant = asked.tenant
            left join permits as of_type on of_type.task_type = asked.task_type
            where coalesce(of_tenant.permits, 1) > 0 and coalesce(of_type.permits, 1) > 0
        ), in_tenant as (
            select *, row_number() over (partition by tenant order by place) as tenant_turn from open
        ), in_type as (
            select *, row_number() over (partition by task_type order by place) as type_turn
            from in_tenant where tenant_turn <= coalesce(tenant_permits, tenant_turn)
        )
        select unnest(ids)
        except
        select id from in_type where type_turn <= coalesce(type_permits, type_turn);
end
$$;
