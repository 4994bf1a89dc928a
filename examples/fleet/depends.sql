-- Who depends on a name, on which host, in which command, and by which program.
-- SET VARIABLE name = 'github.com'; reads logs/ and what is below it.
WITH line AS (
    SELECT *
    FROM read_json('logs/**/*.jsonl', format = 'newline_delimited', columns = {
        run: 'VARCHAR', event: 'VARCHAR', time: 'TIMESTAMP', host: 'VARCHAR', argv: 'VARCHAR[]',
        qname: 'VARCHAR', verdict: 'VARCHAR', count: 'BIGINT'
    })
),
start AS (
    SELECT run, host, array_to_string(argv, ' ') AS command FROM line WHERE event = 'run_start'
)
SELECT
    start.host,
    command,
    array_to_string(line.argv, ' ') AS program,
    line.qname AS name,
    count(DISTINCT line.run) AS runs,
    sum(count) FILTER (verdict = 'blocked')::BIGINT AS blocked,
    max(time) AS last_seen
FROM line JOIN start USING (run)
WHERE event IN ('dns', 'connect', 'packet')
  AND (qname = getvariable('name') OR suffix(qname, '.' || getvariable('name')))
GROUP BY ALL
ORDER BY ALL;
