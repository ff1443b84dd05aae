-- The end of every script here: wrk's summary as one line of JSON.
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'BENCH {"requests":%d,"duration_us":%d,"connect":%d,"read":%d,"write":%d,"status":%d,'
      .. '"timeout":%d,"max_us":%d,"percentiles_us":{',
    summary.requests, summary.duration, errors.connect, errors.read, errors.write,
    errors.status, errors.timeout, latency.max))
  local comma = ""
  for _, p in ipairs({1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99}) do
    io.write(string.format('%s"%g":%d', comma, p, latency:percentile(p)))
    comma = ","
  end
  io.write("}}\n")
end
