-- wrk's script: GET /balance, users in turn.
local users = tonumber(os.getenv("BENCH_USERS"))
local n = 0

function request()
  n = n + 1
  return "GET /balance HTTP/1.1\r\nHost: bench\r\nuser_id: u" .. (n % users) .. "\r\n\r\n"
end

dofile((os.getenv("BENCH_SUMMARY")))
