-- Hosts that have runs of which the log does not tell everything: it has no end, or says itself
-- that something was lost. What these hosts depend on is not known for sure.
WITH line AS (
    SELECT *
    FROM read_json('logs/**/*.jsonl', format = 'newline_delimited', columns = {
        run: 'VARCHAR', event: 'VARCHAR', time: 'TIMESTAMP', host: 'VARCHAR', count: 'BIGINT',
        lost: 'BIGINT', lines_lost: 'BIGINT'
    })
),
run AS (
    SELECT
        run,
        any_value(host) AS host,
        min(time) AS started,
        count(*) FILTER (event = 'run_end') = 0 AS is_cut,
        -- The end has the sum of the lines before it; a log that is cut has only those.
        greatest(coalesce(sum(lost), 0), coalesce(sum(count) FILTER (event = 'loss'), 0))
            + coalesce(sum(lines_lost), 0) AS lost
    FROM line
    GROUP BY run
)
SELECT
    host,
    count(*) FILTER (is_cut) AS cut,
    count(*) FILTER (lost > 0) AS lossy,
    sum(lost)::BIGINT AS lost,
    max(started) AS last_time
FROM run
WHERE is_cut OR lost > 0
GROUP BY host
ORDER BY host;
