-- The fleet that this database is of. What a fleet keeps elsewhere (queues in Redis) bears this name, so that two fleets
-- which were told to use the same place by mistake find out.
create table fleet (
    one boolean primary key default true check (one),
    id  uuid    not null
);

insert into fleet (id) values (gen_random_uuid());
