-- A partition that is made late: rows of its week wait in the default partition, and more come in.
--
-- To move them would lock everybody out for as long as that takes, or lose sight of them meanwhile. So the
-- default partition itself becomes the partition of that week, and a new, empty one takes its place: rows
-- are read once, to see that they belong there, and only those that do not are moved.

-- The ids that the partitions of weeks hold, from low up to high. Of one that holds all that came before it,
-- low is null.
create function taskforge_ranges() returns table (low uuid, high uuid)
language sql stable as $$
    select substring(bounds from 'FROM \(''([0-9a-f-]{36})''\)')::uuid,
           substring(bounds from 'TO \(''([0-9a-f-]{36})''\)')::uuid
    from pg_inherits
    join pg_class on pg_class.oid = inhrelid
    cross join lateral pg_get_expr(relpartbound, pg_class.oid) as bounds
    where inhparent = 'tasks'::regclass and bounds <> 'DEFAULT'
$$;

-- Whether a week has a partition.
create function taskforge_has_partition(week timestamptz) returns boolean
language sql stable as $$
    select exists (select 1 from taskforge_ranges()
                   where (low is null or low <= taskforge_first_id(week)) and taskforge_first_id(week) < high)
$$;

-- The last of these weeks of which rows wait in the default partition. Not in SQL, whose functions keep the
-- table that a name meant at the first call in a loop: the default partition becomes another one in it.
create function taskforge_waiting(weeks timestamptz[]) returns timestamptz
language plpgsql stable as $$
begin
    return (
        select max(week)
        from unnest(weeks) as week
        cross join lateral (select taskforge_first_id(week) as low,
                                   taskforge_first_id(week + interval '7 days') as high) as ids
        where exists (select 1 from tasks_default where id >= low and id < high)
           or exists (select 1 from attempts_default where task_id >= low and task_id < high)
           or exists (select 1 from events_default where task_id >= low and task_id < high));
end
$$;

-- Makes the default partition that of a week, and of all between the partition before it and that week. It
-- is named by its last week, because retention drops a partition when its last week is old. Whoever reads
-- or writes tasks waits meanwhile.
create function taskforge_adopt_default(week timestamptz) returns void
language plpgsql as $$
declare
    first  uuid := (select high from taskforge_ranges() where high <= taskforge_first_id(week)
                    order by high desc limit 1);
    after  uuid := taskforge_first_id(week + interval '7 days');
    parent text;
    rest   text;
    child  text;
begin
    foreach parent in array array['tasks', 'attempts', 'events'] loop
        rest := parent || '_default';
        child := parent || '_' || to_char(week at time zone 'UTC', 'YYYYMMDD');
        execute format('alter table %I detach partition %I', parent, rest);
        execute format('alter table %I rename to %I', rest, child);
        execute format('alter table %I set (%s)', child, taskforge_storage(parent));
        execute format('create table %I (like %I including defaults including constraints)', rest, parent);
        execute format('with strays as (delete from %1$I where %2$I >= %3$L or %2$I < %4$L returning *) '
                       'insert into %5$I select * from strays',
                       child, case parent when 'tasks' then 'id' else 'task_id' end, after, first, rest);
        execute format('alter table %I attach partition %I for values from (%s) to (%L)',
                       parent, child, coalesce(quote_literal(first), 'minvalue'), after);
        execute format('alter table %I attach partition %I default', parent, rest);
    end loop;
end
$$;

-- Makes the partitions of every week from one moment to another. Returns how many weeks were missing.
create or replace function taskforge_make_partitions(first_moment timestamptz, last_moment timestamptz)
returns integer
language plpgsql as $$
declare
    weeks  timestamptz[] := array(
        select week
        from generate_series(date_trunc('week', first_moment, 'UTC'), last_moment, interval '7 days') as week
        where not taskforge_has_partition(week) order by week);
    made   integer := cardinality(weeks);
    week   timestamptz;
    parent text;
    child  text;
begin
    if weeks = '{}' then
        return 0;
    end if;
    if taskforge_waiting(weeks) is not null then
        -- In this order, in which everybody comes by, and before anything else is locked.
        lock table only tasks, only attempts, only events in access exclusive mode;
        -- Again for rows that wait of weeks before a partition that is there already.
        while taskforge_waiting(weeks) is not null loop
            perform taskforge_adopt_default(taskforge_waiting(weeks));
            weeks := array(select missing from unnest(weeks) as missing
                           where not taskforge_has_partition(missing) order by missing);
        end loop;
    else
        -- Readers and writers of other partitions do not wait for these.
        lock table tasks_default, attempts_default, events_default in share row exclusive mode;
        if taskforge_waiting(weeks) is not null then
            raise lock_not_available using message = 'rows of a week without a partition came in meanwhile';
        end if;
    end if;
    foreach week in array weeks loop
        if not taskforge_has_partition(week) then
            foreach parent in array array['tasks', 'attempts', 'events'] loop
                child := parent || '_' || to_char(week at time zone 'UTC', 'YYYYMMDD');
                -- Made apart and then attached: "create table ... partition of" would lock out every reader.
                execute format('create table %I (like %I including defaults including constraints) with (%s)',
                               child, parent, taskforge_storage(parent));
                execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                               parent, child, taskforge_first_id(week), taskforge_first_id(week + interval '7 days'));
            end loop;
        end if;
    end loop;
    return made;
end
$$;
