-- Names that no run before the last seven days asked for: what the fleet depends on since then.
-- SET VARIABLE until = TIMESTAMP '2026-11-23'; for another week than the last (times are UTC).
WITH line AS (
    SELECT *
    FROM read_json('logs/**/*.jsonl', format = 'newline_delimited', columns = {
        run: 'VARCHAR', event: 'VARCHAR', time: 'TIMESTAMP', host: 'VARCHAR', argv: 'VARCHAR[]',
        qname: 'VARCHAR'
    })
    WHERE time < coalesce(getvariable('until'), now()::TIMESTAMP)
),
start AS (
    SELECT run, host, array_to_string(argv, ' ') AS command FROM line WHERE event = 'run_start'
)
SELECT
    qname AS name,
    min(time) AS first_seen,
    list_sort(list(DISTINCT start.host)) AS hosts,
    list_sort(list(DISTINCT command)) AS commands
FROM line JOIN start USING (run)
WHERE qname IS NOT NULL
GROUP BY qname
HAVING min(time) >= coalesce(getvariable('until'), now()::TIMESTAMP) - INTERVAL 7 DAY
ORDER BY name;
