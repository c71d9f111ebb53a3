-- wrk -t1 -c64 -d10s -s examples/load/one-token.lua http://127.0.0.1:8080/orders/42
-- The token is taken from the environment: TOKEN=$(bearward token mint ...)
local token = os.getenv("TOKEN")
if not token or token == "" then
  error("set TOKEN, for example TOKEN=$(bearward token mint ...)")
end
wrk.headers["Authorization"] = "Bearer " .. token
