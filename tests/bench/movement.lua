-- wrk's script: one movement a request, under a key of its own, users in turn.
-- The stride scatters neighbours in time over a large ledger (prime, so that all come in turn).
-- BENCH_PREFIX names the run: the same prefix again sends the same keys again (replays).
local prefix = os.getenv("BENCH_PREFIX")
local users = tonumber(os.getenv("BENCH_USERS"))
local wrap = tonumber(os.getenv("BENCH_KEYS"))
local head = "POST " .. (os.getenv("BENCH_PATH")) .. " HTTP/1.1\r\nHost: bench\r\n"
  .. "Content-Type: application/json\r\nContent-Length: 17\r\nIdempotency-Key: " .. prefix
local tail = '\r\n\r\n{"amount":"1.25"}'
local n = 0

function request()
  n = n + 1
  if n > wrap then n = 1 end
  return head .. n .. "\r\nuser_id: u" .. (n * 611953 % users) .. tail
end

dofile((os.getenv("BENCH_SUMMARY")))
