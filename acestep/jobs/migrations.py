"""The schema of the job database."""

from __future__ import annotations

import sqlite3

from acestep.errors import DataFolderError

# One script a version; a script that was released is never edited. `seq` is the order of arrival.
# The first index serves claims, positions and counts, the second the average duration and expiry.
_SCRIPTS = (
    """
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
        request TEXT NOT NULL,
        created_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        attempts INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        songs TEXT NOT NULL DEFAULT '[]',
        work_seconds REAL
    );
    CREATE INDEX jobs_by_arrival ON jobs (state, seq);
    CREATE INDEX jobs_by_finish ON jobs (state, finished_at);
    """,
    # `analysis` was called `extras` in a request and `findings` in a song.
    """
    UPDATE jobs SET request =
        json_set(json_remove(request, '$.extras'), '$.analysis', json_extract(request, '$.extras'))
        WHERE json_valid(request) AND json_type(request, '$.extras') IS NOT NULL;
    UPDATE jobs SET songs = (
        SELECT json_group_array(CASE WHEN json_type(value, '$.findings') IS NULL THEN json(value) ELSE
            json_set(json_remove(value, '$.findings'), '$.analysis', json_extract(value, '$.findings')) END)
        FROM json_each(jobs.songs))
        WHERE json_valid(songs) AND songs LIKE '%"findings":%';
    """,
    # `use_adg` became a kind of guidance, one of several.
    """
    UPDATE jobs SET request = json_set(request, '$.sampler.tuning.guidance', 'adg')
        WHERE json_valid(request) AND json_extract(request, '$.sampler.use_adg');
    UPDATE jobs SET songs = (
        SELECT json_group_array(CASE WHEN json_extract(value, '$.plan.sampling.use_adg')
            THEN json_set(value, '$.plan.sampling.tuning.guidance', 'adg') ELSE json(value) END)
        FROM json_each(jobs.songs))
        WHERE json_valid(songs) AND songs LIKE '%"use_adg":true%';
    """,
    # Leases, cancelling, and what happened to each job. `has_begun` is true after the first step of an
    # attempt; `deaths` counts the servers that died after it.
    """
    ALTER TABLE jobs ADD COLUMN token INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN lease_until REAL;
    ALTER TABLE jobs ADD COLUMN has_begun INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN is_cancelling INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE events (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        at REAL NOT NULL,
        data TEXT NOT NULL DEFAULT '{}'
    );
    CREATE INDEX events_by_job ON events (job_id, number);
    """,
    # What the time of a job depends on (`eta.Work`); "" for jobs of earlier versions.
    """
    ALTER TABLE jobs ADD COLUMN work TEXT NOT NULL DEFAULT '';
    """,
    # What was answered to submissions that may come twice (`model.Once`).
    """
    CREATE TABLE submissions (
        id TEXT PRIMARY KEY,
        fingerprint TEXT NOT NULL,
        job_id TEXT NOT NULL,
        position INTEGER NOT NULL,
        seconds REAL NOT NULL,
        at REAL NOT NULL
    );
    CREATE INDEX submissions_by_age ON submissions (at);
    """,
    # Webhooks: where events of a job go, and those that wait to be sent, with the numbers of the events.
    """
    CREATE TABLE hooks (job_id TEXT PRIMARY KEY, url TEXT NOT NULL, events TEXT NOT NULL);
    CREATE TABLE deliveries (
        number INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL,
        url TEXT NOT NULL,
        kind TEXT NOT NULL,
        at REAL NOT NULL,
        data TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        next_at REAL NOT NULL
    );
    CREATE INDEX deliveries_by_time ON deliveries (next_at);
    CREATE TRIGGER hooked_event AFTER INSERT ON events
        WHEN EXISTS (SELECT 1 FROM hooks WHERE job_id = NEW.job_id) BEGIN
        INSERT INTO deliveries (number, job_id, url, kind, at, data, next_at)
            SELECT NEW.number, NEW.job_id, hooks.url, NEW.kind, NEW.at, NEW.data, NEW.at
            FROM hooks, json_each(hooks.events) AS wanted
            WHERE hooks.job_id = NEW.job_id AND wanted.value = NEW.kind;
    END;
    CREATE TRIGGER hooked_job AFTER DELETE ON jobs BEGIN
        DELETE FROM hooks WHERE job_id = OLD.id;
    END;
    """,
    # What has ended is counted, as jobs expire.
    """
    CREATE TABLE counters (
        name TEXT NOT NULL, label TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (name, label)
    );
    CREATE TRIGGER counted_job AFTER UPDATE OF state ON jobs
        WHEN NEW.state IN ('succeeded', 'failed', 'cancelled') AND OLD.state != NEW.state BEGIN
        INSERT INTO counters SELECT 'jobs', NEW.state, 1 WHERE true
            ON CONFLICT DO UPDATE SET value = value + excluded.value;
        INSERT INTO counters
            SELECT 'songs', json_extract(value, '$.dit_model'), COUNT(*) FROM json_each(NEW.songs)
            WHERE true GROUP BY 2 ON CONFLICT DO UPDATE SET value = value + excluded.value;
        INSERT INTO counters
            SELECT 'music', json_extract(value, '$.dit_model'), SUM(json_extract(value, '$.plan.duration'))
            FROM json_each(NEW.songs) WHERE true GROUP BY 2
            ON CONFLICT DO UPDATE SET value = value + excluded.value;
        INSERT INTO counters
            SELECT 'codes', json_extract(value, '$.lm_model'),
                SUM(json_array_length(value, '$.plan.audio_codes'))
            FROM json_each(NEW.songs) WHERE json_extract(value, '$.lm_model') != '' GROUP BY 2
            ON CONFLICT DO UPDATE SET value = value + excluded.value;
        INSERT INTO counters
            SELECT 'stage', timing.key, SUM(timing.value)
            FROM json_each(NEW.songs) AS song, json_each(song.value, '$.timings') AS timing
            WHERE true GROUP BY 2 ON CONFLICT DO UPDATE SET value = value + excluded.value;
        INSERT INTO counters
            SELECT 'stage_runs', timing.key, COUNT(*)
            FROM json_each(NEW.songs) AS song, json_each(song.value, '$.timings') AS timing
            WHERE true GROUP BY 2 ON CONFLICT DO UPDATE SET value = value + excluded.value;
    END;
    """,
)


def check_version(database: sqlite3.Connection) -> int:
    """The version of the schema, 0 for none. Raises DataFolderError if a newer server wrote the database."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > len(_SCRIPTS):
        raise DataFolderError(
            f"The job database has schema {version}, but this server knows only {len(_SCRIPTS)}: a newer "
            "version wrote it. Update the server, or set ACESTEP_DATA_DIR to another folder."
        )
    return int(version)


def migrate(database: sqlite3.Connection) -> None:
    version = check_version(database)
    for number, script in enumerate(_SCRIPTS[version:], start=version + 1):
        with database:
            database.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number};")
