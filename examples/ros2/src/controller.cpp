// A node that solves the exported cartpole controller for every state it hears of: a template, not tried in the tests of
// this repository, which have no ROS.
//
//   state    std_msgs/Float64MultiArray  x, v, cos_theta, sin_theta, omega, as cartpole.h lists them
//   control  std_msgs/Float64MultiArray  the control to apply now
#include <cmath>
#include <memory>
#include <vector>

#include <rclcpp/rclcpp.hpp>
#include <std_msgs/msg/float64_multi_array.hpp>

#include "cartpole.hpp"

class Controller : public rclcpp::Node {
 public:
  Controller() : Node("controller") {
    options_.max_iterations = static_cast<std::int32_t>(declare_parameter<int>("max_iterations", 50));
    control_ = create_publisher<Message>("control", 1);
    state_ = create_subscription<Message>("state", 1, [this](const Message &state) { solve(state); });
  }

 private:
  using Message = std_msgs::msg::Float64MultiArray;

  void solve(const Message &state) {
    if (state.data.size() != cartpole::n_states) {
      RCLCPP_ERROR(get_logger(), "a state has %zu numbers; %zu are expected", state.data.size(), cartpole::n_states);
      return;
    }
    const auto solution = cartpole::solve<double>(state.data, parameters_, options_, plan_);
    // Nothing is published without a result; any other status leaves the best plan found. What is safe then is the
    // actuator's to do, when it has heard nothing for a while.
    if (!std::isfinite(solution.control(0, 0)[0])) {
      RCLCPP_WARN(get_logger(), "no solution: status %d", static_cast<int>(solution.status[0]));
      plan_.clear();
      return;
    }
    Message control;
    const auto first = solution.control(0, 0);
    control.data.assign(first.begin(), first.end());
    control_->publish(control);
    // The next solve begins at this plan, a stage later.
    plan_.assign(solution.u.begin() + cartpole::n_controls, solution.u.end());
    plan_.insert(plan_.end(), solution.u.end() - cartpole::n_controls, solution.u.end());
  }

  cartpole::Parameters<double> parameters_;
  cartpole::Options options_;
  std::vector<double> plan_;
  rclcpp::Publisher<Message>::SharedPtr control_;
  rclcpp::Subscription<Message>::SharedPtr state_;
};

int main(int argc, char **argv) {
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<Controller>());
  rclcpp::shutdown();
}
