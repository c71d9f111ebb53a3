-- wrk -t1 -c64 -d10s -s examples/load/many-tokens.lua http://127.0.0.1:8080/orders/42
-- TOKENS names a file with one token a line; they are sent in turn.
-- bearward token mint --count 10000 ... > tokens.txt makes one.
local name = os.getenv("TOKENS")
if not name then
  error("set TOKENS to a file with one token a line")
end
local requests, turn = {}, 0

function init()
  for token in io.lines(name) do
    requests[#requests + 1] = wrk.format("GET", nil, { ["Authorization"] = "Bearer " .. token })
  end
  if #requests == 0 then
    error(name .. " holds no token")
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end
